from __future__ import annotations

import pytest
import torch

from compressors.errors import GpuMissingError
from compressors.training.device import device_for


def test_cuda_without_a_gpu_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(GpuMissingError, match=r"cuda is asked for, and where jobs run there is none .*--device auto"):
        device_for("cuda")
    assert device_for("auto") == device_for("cpu") == "cpu"


def test_gpu_is_taken_where_asked_for_and_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_for("cuda") == device_for("auto") == "cuda"
    assert device_for("cpu") == "cpu"
