"""Compilers and rules of neural processors: what becomes of a LiteRT file there, without the hardware at hand."""
