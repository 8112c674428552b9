"""`edge-registry up`: the whole registry on one machine, as child processes under one data folder."""

from server.stack.state import StackState, stack_state
from server.stack.up import run_stack

__all__ = ["StackState", "run_stack", "stack_state"]
