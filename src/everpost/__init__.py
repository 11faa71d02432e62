"""Everpost: highly available mail for two ordinary Linux servers and a small witness."""

__version__ = "0.1.0"
