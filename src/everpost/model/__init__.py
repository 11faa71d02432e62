"""Nouns used by more than one role: frozen values, parsed at the edge. No I/O, no clock."""
