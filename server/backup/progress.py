"""How far a backup or a restore is."""

from collections.abc import Callable

Told = Callable[[str, int, int], None]
"""Called with a stage (a table, or what is copied otherwise), how much of it is done, and of how much."""
