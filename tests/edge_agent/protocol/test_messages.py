"""Payloads there and back, and payloads that somebody hostile would send."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.protocol.messages import (
    Ack,
    AckRange,
    Ask,
    AskKind,
    Desired,
    DesiredDeployment,
    LatencySketch,
    MalformedMessageError,
    Message,
    Presence,
    ProtocolError,
    Reply,
    ReplyStatus,
    Status,
    TelemetryReport,
    UnsupportedVersionError,
    decode,
    encode,
)
from edge_agent.protocol.profile import RuntimeName
from edge_agent.protocol.topics import MAX_PAYLOAD_BYTES

names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,20}\Z")
hexes = st.integers(0, (1 << 256) - 1).map(lambda n: f"{n:064x}")
sessions = hexes.map(lambda h: h[:32])
counts = st.integers(0, 1 << 53)
times = st.floats(0, 1e11)
deployments = st.builds(
    DesiredDeployment,
    deployment_id=names,
    model=names,
    version=names,
    variant_id=names,
    manifest_sha256=hexes,
    manifest_bytes=st.integers(0, 16 << 20),
)
desireds = st.builds(Desired, epoch=counts, generation=counts, deployments=st.lists(deployments, max_size=3).map(tuple))
sketches = st.builds(
    LatencySketch,
    zero_count=counts,
    offset=st.integers(-(1 << 20), 1 << 20),
    bins=st.lists(counts, max_size=9).map(tuple),
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Presence,
        session_id=sessions,
        session_counter=counts,
        online=st.booleans(),
        runtimes=st.dictionaries(st.sampled_from(RuntimeName), st.text(max_size=64)),
        sent_at=times,
    ),
    desireds,
    st.builds(Status, session_id=sessions, sequence=counts, observed_epoch=counts, observed_generation=counts),
    st.builds(
        TelemetryReport,
        spool_id=sessions,
        sequence=counts,
        model=names,
        version=names,
        variant_id=names,
        deployment_id=names,
        window_start=times,
        window_s=st.floats(0, 1e6),
        errors=st.dictionaries(st.text(max_size=64), counts, max_size=4),
        invoke=sketches,
    ),
    st.builds(
        Ack,
        ranges=st.lists(st.builds(AckRange, spool_id=sessions, first=counts, last=counts), max_size=5).map(tuple),
    ),
    st.builds(
        Ask, kind=st.sampled_from(AskKind), sha256=st.none() | hexes, missing=st.none() | st.binary(max_size=4096)
    ),
    st.builds(
        Reply,
        kind=st.sampled_from(AskKind),
        status=st.sampled_from(ReplyStatus),
        desired=st.none() | desireds,
        manifest=st.none() | st.text(max_size=200),
    ),
)


@given(messages)
def test_decode_of_what_encode_wrote_is_the_same_message(message: Message) -> None:
    assert decode(type(message), encode(message)) == message


@given(messages, st.dictionaries(st.from_regex(r"\Ax_[a-z]{1,8}\Z"), st.integers(), max_size=3))
def test_decode_ignores_fields_of_a_newer_sender(message: Message, extra: dict[str, int]) -> None:
    document = json.loads(encode(message)) | extra
    assert decode(type(message), json.dumps(document).encode()) == message


@given(st.binary(max_size=2000), st.sampled_from([Presence, Desired, Status, TelemetryReport, Ack, Ask, Reply]))
def test_decode_of_any_bytes_raises_nothing_but_its_own_errors(payload: bytes, kind: type[Message]) -> None:
    with contextlib.suppress(ProtocolError):
        decode(kind, payload)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["v", "epoch", "generation", "deployments", "limits", "x"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_decode_of_any_json_raises_nothing_but_its_own_errors(document: object) -> None:
    with contextlib.suppress(ProtocolError):
        decode(Desired, json.dumps(document).encode())


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"epoch": 1e400, "generation": 1}',
        b'{"epoch": NaN, "generation": 1}',
        b'{"epoch": 1, "generation": 1, "status_interval_s": Infinity}',
        b'{"epoch": true, "generation": "1x"}',
        b'{"epoch": 1, "generation": 1, "v": 0}',
        b'{"epoch": 1, "generation": ' + b"9" * 5000 + b"}",
        b'{"epoch": 1, "generation": 1, "deployments": [' + b"{}," * 70 + b"{}]}",
    ],
)
def test_decode_of_a_hostile_desired_is_refused_as_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode(Desired, payload)


@pytest.mark.parametrize(
    "name",
    ["../etc", "a/b", "a b", "a+b", "a#", "", ".hidden", "-flag", "a..b", "x" * 64, "naïve", "🐟", "a\n", "a\0b"],
)
def test_decode_of_a_name_that_is_no_name_is_refused(name: str) -> None:
    deployment = {
        "deployment_id": name,
        "model": "m",
        "version": "1",
        "variant_id": "v",
        "manifest_sha256": "0" * 64,
        "manifest_bytes": 1,
    }
    payload = json.dumps({"epoch": 1, "generation": 1, "deployments": [deployment]}).encode()
    with pytest.raises(MalformedMessageError, match="deployment_id"):
        decode(Desired, payload)


@pytest.mark.parametrize("kind", [Presence, Desired, Status, TelemetryReport, Ack, Ask, Reply])
def test_decode_of_a_payload_above_the_cap_is_refused_before_it_is_parsed(kind: type[Message]) -> None:
    payload = b'{"v": 2}' + b" " * MAX_PAYLOAD_BYTES[kind.topic]
    with pytest.raises(MalformedMessageError, match="payload may have"):
        decode(kind, payload)


@pytest.mark.parametrize("version", [b"2", b"2.0", b'"2"'])
def test_decode_of_a_newer_version_is_refused_loudly(version: bytes) -> None:
    with pytest.raises(UnsupportedVersionError, match="has version 2, this side speaks 1"):
        decode(Desired, b'{"epoch": 1, "generation": 1, "v": ' + version + b"}")


def test_encode_of_a_message_above_its_cap_is_refused() -> None:
    ranges = tuple(AckRange(spool_id="0" * 32, first=1 << 50, last=1 << 53) for _ in range(1024))
    assert len(encode(Ack(ranges=ranges))) <= MAX_PAYLOAD_BYTES[Ack.topic]
    reply = Reply(kind=AskKind.MANIFEST, status=ReplyStatus.OK, manifest="x" * (901 * 1024))
    with pytest.raises(MalformedMessageError):
        encode(reply)


def test_decode_status_whose_words_hold_a_nul_has_them_without() -> None:
    status = {
        "v": 1,
        "session_id": "0" * 32,
        "sequence": 1,
        "observed_epoch": 1,
        "observed_generation": 1,
        "deployments": [
            {
                "deployment_id": "d",
                "model": "m",
                "version": "1",
                "variant_id": "v",
                "state": "failed",
                "detail": "no\0room",
            }
        ],
    }
    assert decode(Status, json.dumps(status).encode()).deployments[0].detail == "no\N{REPLACEMENT CHARACTER}room"
