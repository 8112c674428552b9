"""Repairs of a float network before it is quantized: one algorithm a file, none that knows whether it helps."""
