"""Automatic search: recipes under a profile's limits, a front from the first minute, resumable and repeatable."""
