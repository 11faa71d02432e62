"""Hub transport: receives mail and says 250 only when it is delivered, durably, on every server of the set."""
