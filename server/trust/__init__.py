"""Who belongs: the registry's authority, what it issues and takes back, and what the broker is told of it."""
