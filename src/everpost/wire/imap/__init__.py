"""IMAP4rev1, the server's end (RFC 3501 and the extensions that CAPABILITY names): bytes in, commands out."""
