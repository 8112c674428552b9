"""LiteRT files that were pushed: the gate, and the file as a network that answers but has no layers."""
