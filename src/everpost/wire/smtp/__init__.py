"""SMTP, the receiving end (RFC 5321 and extensions): bytes in, events out."""

from everpost.wire.smtp.server import Chunk, Command, Data, Dropped, Event, Fault, SmtpReader

__all__ = ["Chunk", "Command", "Data", "Dropped", "Event", "Fault", "SmtpReader"]
