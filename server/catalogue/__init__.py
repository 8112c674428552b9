"""Profiles, models, versions, variants and the jobs that make them."""
