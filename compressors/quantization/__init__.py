"""Integers for a LiteRT file: the adapter to the quantizer, and what keeps it from doing harm."""
