from __future__ import annotations

import io
import json
import os
import tarfile
import zlib

import pytest

from edge_agent.protocol.bundle import DEVICE_FILES, archive, device_files, registry_files
from edge_agent.protocol.inquiry import (
    MAX_DOCUMENT_BYTES,
    MAX_PACKED_BYTES,
    PART_BYTES,
    Diagnosis,
    LogLevel,
    LogLine,
    LogTail,
    pack,
    parts_of,
    unpack,
)
from edge_agent.protocol.messages import MalformedMessageError, encode

LINE = LogLine(number=1, at=1e9, level=LogLevel.ERROR, text="boom\nTraceback")


def test_answer_cut_into_parts_is_whole_again_and_each_fits_its_topic() -> None:
    packed = os.urandom(MAX_PACKED_BYTES)
    parts = list(parts_of("a" * 32, packed))

    assert b"".join(part.data for part in parts) == packed
    assert len({part.sha256 for part in parts}) == 1
    assert [part.part for part in parts] == list(range(MAX_PACKED_BYTES // PART_BYTES))
    for part in parts:
        encode(part)  # raises beyond the cap of its topic


def test_document_packed_comes_back() -> None:
    tail = LogTail(lines=(LINE,), last_number=1)
    diagnosis = Diagnosis(device_id="d", agent={"deep": [{"x": None}]}, log=tail)
    assert unpack(LogTail, pack(tail)) == tail
    assert unpack(Diagnosis, pack(diagnosis)) == diagnosis


@pytest.mark.parametrize(
    ("packed", "sentence"),
    [
        (b"", "cut off"),
        (b"not deflated", "can't be inflated"),
        (zlib.compress(b"{}")[:-5], "cut off"),
        (zlib.compress(b"{"), "does not fit"),
        (zlib.compress(b"[" * 100_000), "does not fit"),
        (zlib.compress(b'{"lines": [{"number": -1, "at": 0, "level": "info", "text": ""}]}'), "lines.0.number"),
        (zlib.compress(b'{"lines": ' + json.dumps([{}] * 6000).encode() + b"}"), "lines"),
        (zlib.compress(bytes(MAX_DOCUMENT_BYTES + 1)), "more than 8388608 bytes when it is inflated"),
        (bytes(MAX_PACKED_BYTES + 1), "an answer may have"),
    ],
)
def test_unpack_of_what_a_hostile_device_sends_is_refused_with_a_sentence(packed: bytes, sentence: str) -> None:
    with pytest.raises(MalformedMessageError, match=sentence):
        unpack(LogTail, packed)


def test_log_line_from_a_device_moves_no_cursor() -> None:
    hostile = LogLine.model_validate({"number": 1, "at": 0, "level": "info", "text": "\x1b[2J\r\nx\0"})
    assert hostile.text == "?[2J?\nx?"


def test_archive_has_our_names_whatever_the_device_says() -> None:
    diagnosis = Diagnosis.model_validate(
        {"device_id": "d1", "agent": {"../../etc/passwd": "\x1b[2J"}, "log": {"lines": [LINE.model_dump()]}, "/x": {}}
    )
    files = {**device_files(diagnosis), **registry_files({"device": {"labels": {}}})}
    with tarfile.open(fileobj=io.BytesIO(archive(files, device_id="d1", taken_at=1e9))) as tar:
        names = tar.getnames()
        texts = {name.partition("/")[2]: (tar.extractfile(name) or io.BytesIO()).read().decode() for name in names}

    assert {name.partition("/")[0] for name in names} == {"shoal-d1-20010909T014640Z"}
    expected = {f"device/{name}.json" for name in DEVICE_FILES} | {"device/log.txt", "registry/device.json"}
    assert texts.keys() == expected | {"README.txt"}
    assert all(name in texts["README.txt"] for name in expected), "each file is told of"
    assert "\x1b" not in texts["device/agent.json"]
    assert texts["device/log.txt"] == "2001-09-09 01:46:40 ERROR   boom\n    Traceback\n"
