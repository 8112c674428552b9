"""The grammar of topics: what is built is read again, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.protocol import topics
from edge_agent.protocol.states import FINAL_STATES, TRANSITIONS, DeploymentState, may_follow

devices = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
digests = st.integers(0, (1 << 256) - 1).map(lambda n: f"{n:064x}")
blocks = st.integers(0, 99_999_999)


@given(devices, st.sampled_from(topics.DeviceTopic))
def test_parse_of_a_device_topic_gives_device_and_kind(device: str, kind: topics.DeviceTopic) -> None:
    assert topics.parse(topics.device_topic(device, kind)) == topics.ParsedDeviceTopic(device, kind)


@given(devices, digests, blocks)
def test_parse_of_block_topics_gives_object_and_block(device: str, sha256: str, block: int) -> None:
    assert topics.parse(topics.broadcast_block(sha256, block)) == topics.ParsedBlockTopic(sha256, block)
    private = topics.private_block(device, sha256, block)
    assert topics.parse(private) == topics.ParsedBlockTopic(sha256, block, device)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "shoal/v1/d/a/unknown",
        "shoal/v2/d/a/desired",
        "shoal/v1/d/a/desired/",
        "shoal/v1/d//desired",
        "shoal/v1/d/../desired",
        "shoal/v1/d/a/desired\n",
        "shoal/v1/a/" + "0" * 64 + "/01",
        "shoal/v1/a/" + "0" * 64 + "/-1",
        "shoal/v1/a/" + "0" * 64 + "/999999999",
        "shoal/v1/a/" + "G" * 64 + "/1",
        "shoal/v1/a/" + "0" * 63 + "/1",
    ],
)
def test_parse_of_anything_else_is_none(topic: str) -> None:
    assert topics.parse(topic) is None


@given(st.text(max_size=80))
def test_parse_of_any_text_raises_nothing(topic: str) -> None:
    topics.parse(topic)


def test_transitions_name_every_state_and_lead_out_of_each_unfinished_one() -> None:
    assert set(TRANSITIONS) == set(DeploymentState)
    for state in set(DeploymentState) - FINAL_STATES:
        assert may_follow(state, DeploymentState.SUPERSEDED)
        assert any(after in FINAL_STATES for after in TRANSITIONS[state])
    assert may_follow(DeploymentState.SUPERSEDED, DeploymentState.QUEUED), "wanted once more"
    assert not may_follow(DeploymentState.REJECTED, DeploymentState.QUEUED), "never again"
