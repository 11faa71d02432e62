"""Load generators: processes of their own that use nothing but the standard library and never our client code."""
