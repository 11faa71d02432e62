"""SMTP, the receiving end (RFC 5321 and extensions): bytes in, events out."""

from everpost.wire.smtp.server import Command, Data, Fault, SmtpReader, TooBig

__all__ = ["Command", "Data", "Fault", "SmtpReader", "TooBig"]
