"""Quantization of any bit width, simulated in torch: what an integer network would answer, before there is one."""

from __future__ import annotations

from compressors.simulation.grid import Grid, bounds_of, rounded
from compressors.simulation.simulate import Scheme, answers_on_selection, ranges_of, simulated, simulated_snr_db

__all__ = [
    "Grid",
    "Scheme",
    "answers_on_selection",
    "bounds_of",
    "ranges_of",
    "rounded",
    "simulated",
    "simulated_snr_db",
]
