"""What a device reports of its work: windows of latency, their spool, readings of the board."""
