"""The registry as processes: each module is the main program of one, and puts its parts together in one place."""
