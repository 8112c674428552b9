"""Decisions of rollouts, told to a program of the operator's: one HTTP POST for each, in order, at least once."""
