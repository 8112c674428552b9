"""Loading: what is held against the exported program, and what a network looks like when it was written again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from compressors.errors import ModelRunError, RehydrationError, SignatureError
from compressors.inputs import program
from tests.compressors.networks import export

if TYPE_CHECKING:
    from pathlib import Path


class Years(nn.Module):
    """A table whose first entry is the year 1990: nothing that is drawn at random is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 4)

    def forward(self, year: torch.Tensor) -> Any:  # noqa: ANN401
        return self.table((year[:, 0] - 1990).long())


class Together(nn.Module):
    """Holds the number of samples in its shapes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 4).mean(0, keepdim=True)


@pytest.mark.parametrize("name", ["price.pt2", "price-batch-1.pt2", "shapes.pt2", "films.pt2"])
def test_network_is_written_and_read_again(uploads: Path, tmp_path: Path, name: str) -> None:
    network = program.load(uploads / name)
    program.save(network, tmp_path / "again.pt2")
    again = program.load(tmp_path / "again.pt2")
    assert again.parameters == network.parameters
    kinds = [{path: repr(layer) for path, layer in one.module.named_modules() if path} for one in (network, again)]
    assert kinds[0] == kinds[1]
    inputs = {
        spec.name: (np.random.default_rng(0).random((5, *spec.sample_shape)) * 3).astype(spec.datatype.numpy_name)
        for spec in network.signature.inputs
    }
    expected, found = (list(one.run(inputs).values()) for one in (network, again))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(expected, found, strict=True))


def test_network_of_one_sample_that_can_not_take_more_is_refused_with_the_line_that_mends_it(tmp_path: Path) -> None:
    export(Together(), tmp_path / "together.pt2", "x", (8,), batch=1)
    with pytest.raises(SignatureError, match=r"can't be made free: export it again, .*dynamic_shapes=\{'x': \{0:"):
        program.load(tmp_path / "together.pt2")


def test_network_that_takes_nothing_random_is_held_against_the_program_on_its_data(tmp_path: Path) -> None:
    export(Years().eval(), tmp_path / "years.pt2", "year", (1,))
    network = program.load(tmp_path / "years.pt2")
    rows = {"year": np.arange(1990, 2000, dtype=np.float32)[:, None]}
    network.check_samples_are_independent(rows)
    with torch.no_grad():
        network.module.get_parameter("table.weight")[:] = 0.0
    other = replace(network, exported=program.load(tmp_path / "years.pt2").exported)
    with pytest.raises(RehydrationError, match="differs from the exported program"):
        other.check_samples_are_independent(rows)
    with pytest.raises(ModelRunError, match="the model fails on the data"):
        network.run({"year": np.zeros((3, 1), np.float32)})


class Above(nn.Module):
    """Answers with a truth value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1] > 0


class Slice(nn.Module):
    """Gives a part of its input."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, : self.length] * 2.0


def test_network_that_answers_with_truth_values_is_loaded(tmp_path: Path) -> None:
    export(Above(), tmp_path / "above.pt2", "x", (8,))
    network = program.load(tmp_path / "above.pt2")
    rows = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    assert np.array_equal(network.run({"x": rows})["output_0"], rows[:, :1] > 0)


@pytest.mark.parametrize(("length", "shape", "name"), [(8, (0,), "x"), (0, (8,), "output_0")])
def test_tensor_that_holds_nothing_is_refused_by_name(
    tmp_path: Path, length: int, shape: tuple[int, ...], name: str
) -> None:
    export(Slice(length), tmp_path / "nothing.pt2", "x", shape)
    with pytest.raises(SignatureError, match=rf"^{name} has samples of the shape \(0,\), which hold nothing"):
        program.load(tmp_path / "nothing.pt2")
