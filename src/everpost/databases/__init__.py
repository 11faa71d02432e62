"""One copy of a mailbox database on PostgreSQL: create, seed, stream, promote, rewind, fence, measure."""
