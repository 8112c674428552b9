"""What comes back from an exported program is the network that was exported: layers, names, weights, answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import fx, nn

from compressors.errors import SignatureError, WeightError
from compressors.rehydrate import clone, layer_of, rehydrate
from compressors.rehydrate.batch import batch_axis_after
from compressors.rehydrate.verify import check_same, tensors_of
from tests.compressors.rehydrate.sources import (
    FREE,
    Apart,
    Attention,
    Filtering,
    Patches,
    Picture,
    Remembering,
    Sequence,
    Shuffled,
    Signal,
    Spectrum,
    Table,
    Tied,
    TwoOutputs,
    exported,
    rebuilt,
    rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# torch exports its own recurrent layers with a warning about a list that they keep
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning")

SOURCES: dict[str, Callable[[], nn.Module]] = {
    "picture": Picture,
    "shuffled": Shuffled,
    "filtering": Filtering,
    "two-outputs": TwoOutputs,
    "tied": Tied,
    "lstm": Sequence,
    "gru": lambda: Sequence(nn.GRU),
    "signal": Signal,
    "table": Table,
    "apart": Apart,
    "spectrum": Spectrum,
    "attention": Attention,
    "patches": Patches,
}


def source_of(name: str) -> nn.Module:
    torch.manual_seed(3)
    network = SOURCES[name]().eval()
    for norm in (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -1, 1)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    return network


@pytest.mark.parametrize("free", [True, False], ids=["free", "batch-1"])
@pytest.mark.parametrize("name", SOURCES)
def test_rehydrated_network_answers_like_its_source_alone_and_in_a_batch(name: str, *, free: bool) -> None:
    source = source_of(name)
    network = rebuilt(source, free=free)
    with torch.no_grad():
        for count in (1, 3):
            samples = rows(source, count, seed=count)
            for found, expected in zip(tensors_of(network(*samples)), tensors_of(source(*samples)), strict=True):
                assert torch.allclose(found, expected, atol=1e-5)


def test_layers_come_back_under_the_names_of_the_source() -> None:
    network = rebuilt(source_of("picture"))
    kinds = {name: type(layer) for name, layer in network.named_modules() if name}
    expected = {
        "first": nn.Conv2d,
        "norm": nn.BatchNorm2d,
        "depthwise": nn.Conv2d,
        "act": nn.Hardswish,
        "drop": nn.Dropout,
        "head": nn.Linear,
    }
    assert expected.items() <= kinds.items()
    assert {nn.ReLU, nn.ReLU6, nn.MaxPool2d} <= set(kinds.values())  # functions became layers of new names
    assert network.get_submodule("depthwise").groups == 8
    assert network.get_submodule("drop").p == 0.3


@pytest.mark.parametrize("name", ["picture", "shuffled", "filtering", "table", "lstm", "signal"])
def test_weights_come_back_under_the_names_of_the_source(name: str) -> None:
    source = source_of(name)
    state = rebuilt(source).state_dict()
    assert set(state) == set(source.state_dict())
    for key, tensor in source.state_dict().items():
        assert torch.equal(state[key], tensor)


@pytest.mark.parametrize("name", SOURCES)
def test_rehydrated_network_trains(name: str) -> None:
    source = source_of(name)
    network = clone(rebuilt(source)).train()
    sum(output.sum() for output in tensors_of(network(*rows(source, 4)))).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_batch_norm_in_training_mode_learns_the_statistics_of_its_batches() -> None:
    source = source_of("picture")
    network = clone(rebuilt(source)).train()
    before = network.get_buffer("norm.running_mean").clone()
    network(*rows(source, 8))
    assert not torch.equal(network.get_buffer("norm.running_mean"), before)
    assert int(network.get_buffer("norm.num_batches_tracked")) == 1


def test_a_weight_of_two_layers_stays_one_in_the_network_and_its_clone() -> None:
    network = rebuilt(source_of("tied"))
    for one in (network, clone(network)):
        assert one.get_parameter("one.weight") is one.get_parameter("two.weight")
    assert len(list(network.parameters())) == 3


def test_clone_has_weights_of_its_own() -> None:
    network = rebuilt(source_of("table"))
    copy = clone(network)
    with torch.no_grad():
        copy.get_parameter("layers.0.weight").zero_()
    assert network.get_parameter("layers.0.weight").abs().sum() > 0


@pytest.mark.parametrize("name", SOURCES)
def test_rehydrated_network_is_traced_and_exported_again(name: str) -> None:
    source = source_of(name)
    network = rebuilt(source, free=False)
    fx.symbolic_trace(network)
    samples = rows(source, 2)
    again = torch.export.export(network, samples, dynamic_shapes=tuple(FREE for _ in samples))
    check_same(again.module(check_guards=False), network, rows(source, 3), takes_batches=True, how="")


def test_recurrent_state_of_one_sample_is_refused_by_its_layer() -> None:
    with pytest.raises(SignatureError, match=r"memory was exported with a state for one sample"):
        rebuilt(Remembering(), free=False)
    source = Remembering().eval()
    network = rebuilt(source)
    with torch.no_grad():
        assert torch.allclose(network(*rows(source, 3)), source(*rows(source, 3)), atol=1e-6)


@pytest.mark.parametrize(
    ("before", "axis", "after", "expected"),
    [
        ((1, 8, 2, 2), 0, (1, 32), 0),
        ((1, 8, 2, 2), 0, (32,), 0),
        ((1, 8, 3, 3), 0, (1, 2, 4, 3, 3), 0),
        ((10, 1, 16), 1, (10, 4, 4), 1),  # heads join the batch
        ((4, 10, 4), 0, (1, 4, 10, 4), 0),  # and leave it
        ((10, 1, 4, 4), 1, (10, 16), 0),  # time and batch are joined
        ((10, 16), 0, (10, 1, 16), 1),  # and parted
        ((10, 1, 16), 1, (10, 1, 3, 16), 1),
    ],
)
def test_reshape_takes_the_batch_to_an_axis(
    before: tuple[int, ...], axis: int, after: tuple[int, ...], expected: int
) -> None:
    assert batch_axis_after(before, axis, after) == expected


def test_batch_that_can_not_be_made_free_is_refused_with_the_line_that_mends_it() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(2, 4).mean(0, keepdim=True)

    program = torch.export.export(Pair(), (torch.randn(1, 8),))
    module = program.module(check_guards=False)
    network = rehydrate(module, ["x"])
    with pytest.raises(SignatureError, match="can't be made free: export it again, LINE"):
        check_same(module, network, (torch.randn(3, 8),), takes_batches=False, how="LINE")


def test_weight_that_is_no_number_is_refused_by_its_name() -> None:
    source = source_of("table")
    with torch.no_grad():
        source.get_parameter("layers.4.weight")[0, 3] = float("nan")
    with pytest.raises(WeightError, match=r"layers\.4\.weight holds 1 values that are NaN or infinite"):
        rebuilt(source)


def test_network_exported_in_training_mode_is_refused_by_its_layer() -> None:
    with pytest.raises(SignatureError, match=r"norm was exported in training mode: call model\.eval\(\)"):
        rehydrate(*exported(source_of("picture").train(), free=False))


def test_operator_that_is_no_layer_is_named_with_its_place() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Spectrum()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)  # type: ignore[no-any-return]

    program = torch.export.export(Outer().eval(), (torch.randn(1, 8),))
    network = rehydrate(program.module(check_guards=False), ["x"])
    assert layer_of(network, "Lowering not found: aten.fft_rfft.default") == "inner"
    assert layer_of(network, "Unsupported type While executing %view_as_real (args = (%_fft_r2c,))") == "inner"
    assert layer_of(network, "Lowering not found: aten.median.dim") is None
