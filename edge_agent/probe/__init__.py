"""What this machine is: pure parsers of what Linux tells, a thin reader, and the profile that comes of it."""
