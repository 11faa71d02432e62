"""Sans-IO protocol cores: bytes in, events out. No socket, no clock, no asyncio."""
