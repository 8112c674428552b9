from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.protocol.manifest import Encoding, ObjectDescriptor
from edge_agent.protocol.messages import ReplyStatus
from server.delivery.schedule import DeliveryRules, Schedule, Send

BLOCK = 1024
OBJECT = ObjectDescriptor.describe(bytes(20 * BLOCK - 7), encoding=Encoding.IDENTITY, block_bytes=BLOCK)
OTHER = ObjectDescriptor.describe(bytes(10 * BLOCK), encoding=Encoding.IDENTITY, block_bytes=BLOCK)
ALL = range(20)


def drain(schedule: Schedule, now_s: float, *, for_s: float = 5.0) -> tuple[list[Send], float]:
    """Everything that is due within a time; the clock goes as `wait_s` says."""
    sent, end_s = [], now_s + for_s
    while now_s < end_s:
        send = schedule.next_block(now_s)
        if send is not None:
            sent.append(send)
            continue
        now_s = min(end_s, now_s + max(schedule.wait_s(now_s), 1e-6))
    return sent, now_s


def test_schedule_first_asker_opens_a_window_and_one_pass_serves_all_who_ask_meanwhile() -> None:
    schedule = Schedule(DeliveryRules(gather_s=0.3))
    for number in range(5):
        answer = schedule.ask(f"d{number}", OBJECT, ALL, listening=True, now_s=0.05 * number)
        assert answer.first_pass
        assert 0.0 < answer.retry_after_s <= 0.31
    assert schedule.next_block(0.29) is None
    sent, _ = drain(schedule, 0.3)
    assert [(send.block, send.device) for send in sent] == [(block, None) for block in ALL]


def test_schedule_after_the_pass_what_is_missing_is_repaired_in_private() -> None:
    schedule = Schedule(DeliveryRules())
    schedule.ask("a", OBJECT, ALL, listening=True, now_s=0.0)
    drain(schedule, 0.0, for_s=1.0)
    answer = schedule.ask("a", OBJECT, [3, 19], listening=True, now_s=1.0)
    assert (answer.first_pass, answer.blocks) == (False, 2)
    sent, _ = drain(schedule, 1.0)
    assert [(send.block, send.device) for send in sent] == [(3, "a"), (19, "a")]


@pytest.mark.parametrize(
    ("device", "missing", "listening", "at_s", "first_pass"),
    [
        ("late", ALL, True, 5.0, False),  # the pass has just ended: it gets its own copy
        ("late", ALL, True, 40.0, True),  # the next wave
        ("late", ALL, False, 40.0, False),  # who does not listen hears no pass
        ("late", range(9), True, 40.0, False),  # less than half
        ("first", ALL, True, 40.0, False),  # was served by a pass and lost it: all others need not suffer
    ],
)
def test_schedule_another_pass_begins_only_for_a_new_wave(
    device: str,
    missing: range,
    listening: bool,  # noqa: FBT001  from the table
    at_s: float,
    first_pass: bool,  # noqa: FBT001  from the table
) -> None:
    schedule = Schedule(DeliveryRules(again_s=30.0))
    schedule.ask("first", OBJECT, ALL, listening=True, now_s=0.0)
    drain(schedule, 0.0, for_s=1.0)
    assert schedule.ask(device, OBJECT, missing, listening=listening, now_s=at_s).first_pass is first_pass


def test_schedule_few_missing_blocks_never_begin_a_pass() -> None:
    schedule = Schedule(DeliveryRules())
    assert schedule.ask("a", OBJECT, [1], listening=True, now_s=0.0).blocks == 1


def test_schedule_repairs_are_bounded_per_ask_and_slowed_down_per_device() -> None:
    rules = DeliveryRules(repair_rate_bytes_s=BLOCK, repair_burst_bytes=6 * BLOCK, repair_ask_bytes=4 * BLOCK)
    schedule = Schedule(rules)
    assert schedule.ask("a", OBJECT, ALL, listening=False, now_s=0.0).blocks == 4
    busy = schedule.ask("a", OBJECT, ALL, listening=False, now_s=0.0)
    assert (busy.status, busy.retry_after_s) == (ReplyStatus.SLOW_DOWN, 1.0)
    drain(schedule, 0.0, for_s=0.01)
    assert schedule.ask("a", OBJECT, range(4, 20), listening=False, now_s=0.01).blocks == 2
    drain(schedule, 0.01, for_s=0.01)
    slowed = schedule.ask("a", OBJECT, range(6, 20), listening=False, now_s=0.02)
    assert slowed.status is ReplyStatus.SLOW_DOWN
    assert 0.9 < slowed.retry_after_s <= 1.0
    assert schedule.ask("b", OBJECT, ALL, listening=False, now_s=0.02).blocks == 4, "others are not slowed"
    assert schedule.ask("a", OBJECT, range(6, 20), listening=False, now_s=0.02 + slowed.retry_after_s).blocks == 1


def test_schedule_pace_holds_over_passes_and_repairs() -> None:
    schedule = Schedule(DeliveryRules(rate_bytes_s=1e6, gather_s=0.0, repair_ask_bytes=1 << 30))
    big = ObjectDescriptor.describe(bytes(3_000_000), encoding=Encoding.IDENTITY)
    schedule.ask("a", big, range(big.block_count), listening=True, now_s=0.0)
    schedule.ask("b", OBJECT, ALL, listening=False, now_s=0.0)
    sent, _ = drain(schedule, 0.0, for_s=1.0)
    total = sum(send.descriptor.block_span(send.block)[1] for send in sent)
    assert 1e6 <= total <= 1e6 + 400_000
    assert {send.device for send in sent} == {None, "b"}


def test_schedule_object_that_cant_be_read_is_given_up_and_may_begin_again() -> None:
    schedule = Schedule(DeliveryRules(gather_s=0.0))
    schedule.ask("a", OBJECT, ALL, listening=True, now_s=0.0)
    schedule.ask("b", OBJECT, [1], listening=False, now_s=0.0)
    schedule.give_up(OBJECT.sha256)
    assert drain(schedule, 0.0, for_s=1.0)[0] == []
    assert schedule.ask("a", OBJECT, ALL, listening=True, now_s=2.0).first_pass


def test_schedule_questions_of_one_device_are_limited() -> None:
    schedule = Schedule(DeliveryRules(asks_per_s=5.0, asks_burst=10.0))
    assert [schedule.may_ask("a", 0.0) for _ in range(10)] == [0.0] * 10
    assert 0.0 < schedule.may_ask("a", 0.0) <= 0.2
    assert schedule.may_ask("b", 0.0) == 0.0
    assert schedule.may_ask("a", 0.25) == 0.0


ASKS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([OBJECT, OTHER]),
        st.sets(st.integers(0, 9), min_size=1),
        st.booleans(),
        st.floats(0.0, 3.0),
    ),
    max_size=25,
)


@given(ASKS)
def test_schedule_any_questions_what_was_promised_is_sent(
    asks: list[tuple[str, ObjectDescriptor, set[int], bool, float]],
) -> None:
    schedule = Schedule(DeliveryRules(again_s=1.0))
    promised: Counter[str] = Counter()
    sent: list[Send] = []
    now_s = 0.0
    for device, descriptor, missing, listening, pause_s in asks:
        answer = schedule.ask(device, descriptor, sorted(missing), listening=listening, now_s=now_s)
        promised[device] += answer.blocks
        assert answer.status is not ReplyStatus.OK or answer.first_pass or answer.blocks > 0
        more, now_s = drain(schedule, now_s, for_s=pause_s) if pause_s else ([], now_s)
        sent += more
    sent += drain(schedule, now_s, for_s=10.0)[0]
    assert Counter(send.device for send in sent if send.device) == +promised
    passes = Counter((send.descriptor.sha256, send.block) for send in sent if send.device is None)
    for descriptor in (OBJECT, OTHER):
        whole = {passes[descriptor.sha256, block] for block in range(descriptor.block_count)}
        assert len(whole) == 1, "a pass goes out whole"
