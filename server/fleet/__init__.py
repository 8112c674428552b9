"""Devices: how they join, what they are called, and which of them are meant."""
