from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.protocol.messages import encode
from server.ingest.acks import RANGES_PER_ACK, acks_of, ranges_of

SPOOL = "0" * 32


@given(st.lists(st.integers(0, 60)))
def test_ranges_of_any_sequences_covers_exactly_these(sequences: list[int]) -> None:
    ranges = list(ranges_of(sequences, spool_id=SPOOL))
    covered = [number for one in ranges for number in range(one.first, one.last + 1)]
    assert covered == sorted(set(sequences))
    assert all(after.first > before.last + 1 for before, after in pairwise(ranges))


def test_acks_of_many_gaps_are_split_into_messages_that_fit() -> None:
    committed = [("d", SPOOL, 2 * number) for number in range(RANGES_PER_ACK + 1)]
    acks = list(acks_of(committed))
    assert [len(ack.ranges) for _, ack in acks] == [RANGES_PER_ACK, 1]
    assert all(encode(ack) for _, ack in acks)


def test_acks_of_two_devices_and_spools_are_kept_apart() -> None:
    other = "f" * 32
    acks = dict(acks_of([("a", SPOOL, 1), ("b", SPOOL, 1), ("a", other, 2), ("a", SPOOL, 2)]))
    assert [(one.spool_id, one.first, one.last) for one in acks["a"].ranges] == [(SPOOL, 1, 2), (other, 2, 2)]
    assert len(acks["b"].ranges) == 1
