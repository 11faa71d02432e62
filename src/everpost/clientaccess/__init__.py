"""Client access: IMAP sessions over the store. A session outlives a move or failover of its database."""
