"""The steps from an empty database to today's tables, one folder per database. A released step never changes."""
