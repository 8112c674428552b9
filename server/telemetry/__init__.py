"""Latency as it is kept and as operators ask for it: sketches in the database, merged per group."""
