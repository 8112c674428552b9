"""The wire contract between registry and device: names, topics, messages, manifest, profile.

pydantic models and pure functions only: no IO, no clock, no randomness. Everyone may import it.
"""
