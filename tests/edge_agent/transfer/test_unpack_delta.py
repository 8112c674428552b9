"""From a delta and the variant that it begins from to an installed variant: the right one, or none."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import zstandard

from edge_agent.errors import DigestMismatchError, EdgeAgentError
from edge_agent.protocol.manifest import Encoding, ObjectDescriptor
from edge_agent.transfer.unpack import Base, BaseDamagedError, CorruptObjectError, PayloadSizeError, unpack
from tests.edge_agent.surroundings.toy_delta import delta_between, payload_of
from tests.edge_agent.surroundings.toy_variant import ToyVariant, make_variant

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.protocol.delta import Delta

FILLER_BYTES = 300_000
ONE = make_variant("net", "1", filler_bytes=FILLER_BYTES)
TWO = make_variant("net", "2", filler_bytes=FILLER_BYTES, filler_of=ONE)


class Bench:
    """Variant ONE installed in a folder, and what is to become TWO beside it."""

    def __init__(self, folder: Path, content: bytes | None = None, *, delta: Delta | None = None) -> None:
        made, described = delta_between(ONE, TWO)
        self.content = made if content is None else content
        described = described if delta is None else delta
        if content is not None:
            update = {"object": ObjectDescriptor.describe(content, encoding=Encoding.ZSTD_PATCH, block_bytes=65536)}
            described = described.model_copy(update=update)
        (folder / "one").mkdir()
        unpack(*ONE.laid_out(folder / "one"))
        self.base = Base(folder / "one" / "variants" / "v", described)
        self.paths = ToyVariant(TWO.manifest, self.content).laid_out(folder)

    def unpack(self) -> None:
        unpack(*self.paths, base=self.base)

    def process(self) -> tuple[int, dict[str, str]]:
        arguments = [*map(str, self.paths), str(self.base.folder), self.base.delta.model_dump_json()]
        command = [sys.executable, "-m", "edge_agent.transfer.unpack", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return result.returncode, json.loads(result.stdout)

    def nothing_is_left(self) -> bool:
        target = self.paths[2]
        return not target.exists() and not [p for p in target.parent.glob("*") if p.name.startswith(".new")]


def compressed(payload: bytes, *, window_log: int = 19) -> bytes:
    dictionary = zstandard.ZstdCompressionDict(payload_of(ONE), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)
    stream = compressor.compressobj()  # without a size in the frame: the window is the whole truth
    return stream.compress(payload) + stream.flush()


def test_delta_becomes_the_very_variant_with_a_fraction_of_its_bytes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.process() == (0, {"reason": "none", "detail": ""})
    file = bench.paths[2] / "model"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == TWO.manifest.model_file.sha256
    assert len(bench.content) < len(TWO.travelling) / 20


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (compressed(bytes(200 << 20)), DigestMismatchError),
        (compressed(payload_of(TWO) + b"x"), PayloadSizeError),
        (compressed(payload_of(ONE)), EdgeAgentError),
        (delta_between(ONE, TWO)[0][:-50], EdgeAgentError),
        (b"no frame at all, but bytes", CorruptObjectError),
        (compressed(payload_of(TWO), window_log=27), CorruptObjectError),
        (delta_between(TWO, ONE)[0], EdgeAgentError),
    ],
    ids=["bomb", "longer", "other payload", "truncated", "no frame", "huge window", "for another base"],
)
def test_hostile_delta_installs_nothing(tmp_path: Path, content: bytes, error: type[EdgeAgentError]) -> None:
    bench = Bench(tmp_path, content)
    with pytest.raises(error):
        bench.unpack()
    assert bench.nothing_is_left()


def test_delta_with_bytes_that_are_not_those_described_installs_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.paths[0].write_bytes(bench.content + b"more")
    with pytest.raises(EdgeAgentError):
        bench.unpack()
    assert bench.nothing_is_left()


def test_delta_on_a_base_that_the_disk_has_damaged_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    file = bench.base.folder / "model"
    damaged = bytearray(file.read_bytes())
    damaged[1000] ^= 1
    file.write_bytes(damaged)
    code, told = bench.process()
    assert (code, told["reason"]) == (1, "digest_mismatch")
    assert "is damaged on this disk" in told["detail"]
    assert bench.nothing_is_left()


def test_delta_on_a_base_that_is_gone_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (bench.base.folder / "manifest.json").unlink()
    with pytest.raises(BaseDamagedError, match="can't be read"):
        bench.unpack()
    assert bench.nothing_is_left()


def test_delta_that_says_it_needs_less_memory_than_its_base_takes_ends_its_process_only(tmp_path: Path) -> None:
    described = delta_between(ONE, TWO)[1]
    window = described.model_copy(update={"window_bytes": 1024})
    bench = Bench(tmp_path, delta=window)
    code, told = bench.process()
    assert (code, told["reason"]) == (1, "digest_mismatch")
    assert bench.nothing_is_left()
