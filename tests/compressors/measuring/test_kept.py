"""A kept measurement is found again only where nothing that decides it has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from compressors.measuring import kept
from compressors.measuring.kept import KeptMeasurements
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import ModelSignature, TensorSpec
from edge_agent.runtimes.measure import MeasureRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

X86 = "processor\t: {number}\nmodel name\t: {model}\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\n\n"
ARM = "processor\t: {number}\nFeatures\t: {flags}\nCPU implementer\t: 0x41\nCPU part\t: {model}\n\n"


@pytest.fixture
def key(tmp_path: Path) -> Callable[[], str]:
    """The key of one measurement, as it is at the moment."""
    for name in ("model.tflite", "rows.npz"):
        (tmp_path / name).write_bytes(name.encode())
    python = tmp_path / "usr" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.touch()
    specs = (TensorSpec(name="x", shape=(-1, 2)),)
    request = MeasureRequest(
        model_path=tmp_path / "model.tflite",
        runtime=RuntimeName.TFLITE,
        delegate=Delegate.NONE,
        signature=ModelSignature(inputs=specs, outputs=specs),
        data_path=tmp_path / "rows.npz",
    )
    return lambda: KeptMeasurements(None).key(request, python)


@pytest.mark.parametrize("cpuinfo", [X86, ARM], ids=["x86", "arm"])
def test_another_cpu_has_another_key_and_its_clock_has_not(
    cpuinfo: str, key: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(kept, "CPU_INFO", path)

    def of(*, model: str = "0xd08", flags: str = "asimd", mhz: int = 1500, cores: int = 4) -> str:
        parts = [cpuinfo.format(number=n, model=model, flags=flags, mhz=mhz + n) for n in range(cores)]
        path.write_text("".join(parts))
        return key()

    assert of() == of(mhz=600) == of(cores=8)
    assert len({of(), of(model="0xd0b"), of(flags="asimd asimddp")}) == 3
    path.unlink()
    assert key() != of()


@pytest.mark.parametrize(
    "folder",
    ["lib/python3.11/site-packages", "lib/python3/dist-packages", "local/lib/python3.11/dist-packages"],
)
@pytest.mark.parametrize("distribution", ["tflite_runtime-{}.dist-info", "numpy-{}.egg-info"])
def test_another_version_of_a_runtime_has_another_key_wherever_it_is_installed(
    folder: str, distribution: str, key: Callable[[], str], tmp_path: Path
) -> None:
    before = key()
    place = tmp_path / "usr" / folder / distribution.format("1.0")
    place.mkdir(parents=True)
    first = key()
    place.rename(place.with_name(distribution.format("1.1")))
    assert len({before, first, key()}) == 3
