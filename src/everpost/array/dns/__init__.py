"""DNS records of the arrays, kept on a real server by dynamic update (RFC 2136, TSIG RFC 8945)."""
