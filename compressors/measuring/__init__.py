"""Figures of files: how fast they run here, on which runtime, and how near they stay to the float model."""
