import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.mqtt import Backoff, TokenBucket


def test_backoff_doubles_to_its_cap_with_jitter_and_resets() -> None:
    backoff = Backoff(first_s=1, longest_s=8, chance=random.Random(3))
    pauses = [backoff.next_s() for _ in range(6)]
    for pause_s, whole_s in zip(pauses, (1, 2, 4, 8, 8, 8), strict=True):
        assert whole_s / 2 <= pause_s <= whole_s
    backoff.reset()
    assert backoff.next_s() <= 1


def test_backoff_after_very_many_failures_stays_at_its_cap() -> None:
    assert Backoff(failures=10_000).next_s() <= 30


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=50))
def test_bucket_never_exceeds_rate_and_burst(sizes: list[int]) -> None:
    bucket, now_s, sent = TokenBucket(rate_bytes_s=1_000_000, burst_bytes=100_000), 0.0, 0
    for size in sizes:
        now_s += bucket.wait_s(size, now_s)
        bucket.take(size, now_s)
        sent += size
        assert sent <= 100_000 + 1_000_000 * now_s + max(sizes) + 1


def test_bucket_message_larger_than_the_burst_passes_and_is_paid_for() -> None:
    bucket = TokenBucket(rate_bytes_s=100, burst_bytes=10)
    assert bucket.wait_s(110, 0.0) == 0.0
    bucket.take(110, 0.0)
    assert bucket.wait_s(10, 0.0) == pytest.approx(1.1)


def test_bucket_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(rate_bytes_s=100, burst_bytes=10)
    bucket.take(10, 100.0)
    assert bucket.wait_s(10, 50.0) == pytest.approx(0.1)
