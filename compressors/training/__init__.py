"""Training of networks by the rows of `--train`: what steps need that fine-tune, distil, or quantize while training."""

from __future__ import annotations

from compressors.training.fit import Epoch, Fit, Setting, fit, predict
from compressors.training.options import FitOptions

__all__ = ["Epoch", "Fit", "FitOptions", "Setting", "fit", "predict"]
