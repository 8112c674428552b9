"""`edge-registry`: `up` runs a registry, every other command is a client of one."""

from server.cli.app import main

__all__ = ["main"]
