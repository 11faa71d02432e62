"""The asyncio edge: listeners, connections, TLS."""
