"""The ways to the registry: the broker's connection, what is said on it and when, the HTTP endpoints."""
