"""Jobs as a worker runs them: a process, a request, a result; shared by all tests of a run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zstandard

from edge_agent.protocol.manifest import FileRole, VariantManifest

if TYPE_CHECKING:
    from conftest import JobRun, Shared, Upload

HOST_CPU = "Test-CPU"
TWO_RUNTIMES = ("litert", "tflite")


def profile(name: str, *, cpu: str = "Cortex-A72", runtimes: tuple[str, ...] = TWO_RUNTIMES, **limits: float) -> Any:
    return {
        "name": name,
        "arch": "aarch64",
        "cpu": {"model": cpu, "cores": 4},
        "ram_bytes": 1 << 30,
        "storage_bytes": 1 << 30,
        "runtimes": list(runtimes),
        "limits": limits,
    }


PROFILES = [
    profile("free"),
    profile("slow-board", latency_p95_ms=5.0),
    profile("this-host", cpu=HOST_CPU, latency_p95_ms=500.0),
    profile("impossible", download_bytes=100),
    profile("thrifty", download_bytes=6000, runtimes=("tflite",)),
]
