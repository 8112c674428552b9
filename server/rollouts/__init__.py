"""Rollouts: a plan in waves, pure rules that decide the next step, and the controller that writes what they decide."""
