"""Client access: IMAP sessions that outlive a move or failover of the mailbox's database."""
