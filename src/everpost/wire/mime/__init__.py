"""Messages: one scan of the raw bytes gives parts with offsets, and ready IMAP responses (RFC 2045, 3501 7.4.2)."""

from everpost.wire.mime.render import Summary, summarize
from everpost.wire.mime.scan import Part, scan
from everpost.wire.mime.section import part_at, section

__all__ = ["Part", "Summary", "part_at", "scan", "section", "summarize"]
