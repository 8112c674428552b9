"""What holds for all tests."""

from __future__ import annotations

import os

# Two workers share two cores: what torch and the interpreters compute in more threads than that, they wait for. It is
# set before anybody imports torch, and the processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
