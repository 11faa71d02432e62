"""Mailboxes in SQL: folders, messages, flags; idempotent operations by operation id."""
