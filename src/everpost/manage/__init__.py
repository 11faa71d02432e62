"""Management: one registry of commands behind shell, command line and, later, REST and console."""
