from __future__ import annotations

from dataclasses import replace

import pytest

from compressors.building.choice import choose, explain, ranked
from compressors.building.judge import Candidate, Judgement, Miss
from compressors.contract import Figure, Origin, Verdict

FLOAT = Candidate(
    "float32-litert-none-aaaa",
    error=None,
    latency_p95_ms=Figure(value=0.006),
    host_latency_p50_ms=0.0058,
    metric=0.714,
    metric_drop=0.0,
    metric_drop_at_least=0.0,
    metric_drop_at_most=None,
    metric_point=0.01,
    ram_bytes=1,
    download_bytes=6246,
    storage_bytes=1,
    host_latency_interval_ms=(0.0057, 0.0060),
)
INT8 = replace(
    FLOAT,
    variant_id="dynamic-int8-litert-none-bbbb",
    host_latency_p50_ms=0.0069,
    host_latency_interval_ms=(0.0059, 0.0072),
    metric_drop=0.0001,
    download_bytes=2970,
)


def fits(*candidates: Candidate) -> list[Judgement]:
    return [Judgement(candidate, Verdict.FITS) for candidate in candidates]


def chosen(judgements: list[Judgement]) -> Candidate:
    found = choose(judgements)
    assert found is not None
    return found.candidate


def test_medians_that_noise_can_swap_are_equal_and_the_sentence_says_so() -> None:
    judgements = fits(FLOAT, INT8)
    assert chosen(judgements) is INT8
    assert explain(judgements, metric="r2") == (
        "dynamic-int8-litert-none is the smallest download, 2.9 KiB, of 2 that can't be told apart in speed "
        "(0.0058 to 0.0069 ms on the host); the nearest alternative, float32-litert-none, is larger: 6.1 KiB."
    )


def test_sizes_that_rounding_makes_equal_are_told_in_bytes() -> None:
    told = explain(fits(replace(FLOAT, download_bytes=3005), INT8), metric="r2")
    assert "dynamic-int8-litert-none is the smallest download, 2,970 bytes, of 2" in told
    assert told.endswith("the nearest alternative, float32-litert-none, is larger: 3,005 bytes.")


def test_microseconds_that_a_measurement_can_tell_apart_decide() -> None:
    slower = replace(INT8, host_latency_p50_ms=0.0228, host_latency_interval_ms=(0.0226, 0.0231))
    judgements = fits(slower, FLOAT)
    assert chosen(judgements) is FLOAT
    assert explain(judgements, metric="r2") == (
        "float32-litert-none is the fastest of 2, 0.0058 ms on the host; "
        "the nearest alternative, dynamic-int8-litert-none, is slower: 0.0228 ms."
    )


def test_within_ten_percent_a_host_says_nothing_of_another_core() -> None:
    close = replace(INT8, host_latency_p50_ms=0.00637, host_latency_interval_ms=(0.00636, 0.00638))
    assert chosen(fits(FLOAT, close)) is close
    assert chosen(fits(FLOAT, replace(close, host_latency_p50_ms=0.00641))) is FLOAT


def test_wide_intervals_do_not_make_a_much_slower_median_equal() -> None:
    fast = replace(FLOAT, host_latency_p50_ms=2.3, host_latency_interval_ms=(2.2, 2.4))
    disturbed = replace(INT8, host_latency_p50_ms=6.0, host_latency_interval_ms=(2.3, 18.0))
    assert chosen(fits(fast, disturbed)) is fast
    assert explain(fits(fast, disturbed), metric="r2") == (
        "float32-litert-none is the fastest of 2, 2.3 ms on the host; "
        "the nearest alternative, dynamic-int8-litert-none, is slower: 6 ms."
    )
    assert chosen(fits(fast, replace(disturbed, host_latency_p50_ms=3.4))).variant_id == disturbed.variant_id


def test_downloads_within_a_percent_are_decided_by_the_metric_then_by_speed() -> None:
    right = replace(FLOAT, download_bytes=2995)  # 0.8 % larger than the other
    judgements = fits(replace(INT8, metric_drop=0.004), right)
    assert chosen(judgements) is right
    told = explain(judgements, metric="r2")
    assert told.startswith("float32-litert-none is the most accurate of the smallest downloads, 2.9 KiB, of 2 that ")
    assert told.endswith("dynamic-int8-litert-none, loses more of r2: 0.004 against 0.")
    judgements = fits(replace(INT8, metric_drop=0.0), right)
    assert chosen(judgements) is right
    told = explain(judgements, metric="r2")
    assert told.startswith("float32-litert-none is the faster of the smallest downloads, 2.9 KiB, that lose alike, ")
    assert told.endswith("dynamic-int8-litert-none, is a little slower: 0.0069 ms.")


def test_equal_downloads_are_decided_by_the_metric() -> None:
    same_size = replace(FLOAT, variant_id="static-int8-litert-none-cccc", metric_drop=0.004)
    judgements = fits(same_size, FLOAT)
    assert chosen(judgements) is FLOAT
    told = explain(judgements, metric="r2")
    assert "most accurate of the smallest downloads" in told
    assert told.endswith("static-int8-litert-none, loses more of r2: 0.004 against 0.")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            Judgement(INT8, Verdict.MISSES, (Miss("ram_bytes", 1, 2, 2.0),), "ram_bytes is 2, the limit is 1"),
            "misses a limit: ram_bytes is 2, the limit is 1.",
        ),
        (Judgement(INT8, Verdict.UNMEASURED, reason="it ends with signal 9."), "did not run: it ends with signal 9."),
        (
            Judgement(INT8, Verdict.UNPROVEN, reason="its latency is not known"),
            "is unproven: its latency is not known.",
        ),
        (
            Judgement(INT8, Verdict.FITS, caveat="may lose 0.03 of r2", unasked_points=2.5),
            "dynamic-int8-litert-none, may lose 0.03 of r2.",
        ),
    ],
    ids=["misses", "unmeasured", "unproven", "lossy"],
)
def test_the_only_one_that_may_be_chosen_names_what_the_next_lacks(other: Judgement, words: str) -> None:
    judgements = [other, *fits(FLOAT)]
    assert chosen(judgements) is FLOAT
    told = explain(judgements, metric="r2")
    little = " with so small a loss of r2" if other.caveat else ""
    assert told.startswith(
        f"float32-litert-none is the only one that meets the limits{little}; the nearest alternative, "
    )
    assert words in told


def test_a_lossy_choice_says_what_it_loses_and_one_candidate_has_no_alternative() -> None:
    told = explain([Judgement(INT8, Verdict.FITS, caveat="may lose 0.03 of r2", unasked_points=2.5)], metric="r2")
    assert "though it may lose 0.03 of r2" in told
    assert told.endswith("there was no other candidate.")
    assert explain([Judgement(INT8, Verdict.UNMEASURED)], metric="r2") == ""


DEVICES = Figure(value=9.0, origin=Origin.DEVICE)
PREDICTED = Figure(value=9.0, origin=Origin.PREDICTED, device_variants=2)
PUBLISHED = Figure(value=9.0, origin=Origin.PREDICTED)


@pytest.mark.parametrize(
    ("first", "second", "off_npu", "words"),
    [
        (DEVICES, DEVICES, None, "9 ms on devices;"),
        (DEVICES, PREDICTED, None, "9 ms on devices or predicted from them;"),
        (PREDICTED, PREDICTED, None, "9 ms as predicted;"),
        (PUBLISHED, DEVICES, None, "0.0058 ms on the host;"),
        (None, None, None, "0.0058 ms on the host;"),
        (None, None, 0, "0.0058 ms as its compiler estimates;"),
    ],
    ids=["devices", "devices-and-predicted", "predicted", "published", "host", "npu"],
)
def test_sentence_says_where_its_milliseconds_come_from(
    first: Figure | None, second: Figure | None, off_npu: int | None, words: str
) -> None:
    fast = replace(FLOAT, latency_p95_ms=first, operators_off_npu=off_npu)
    slow = replace(
        INT8,
        latency_p95_ms=second and second.model_copy(update={"value": 90.0}),
        host_latency_p50_ms=0.058,
        host_latency_interval_ms=None,
        operators_off_npu=off_npu,
    )
    assert f"is the fastest of 2, {words}" in explain(fits(fast, slow), metric="r2")


def test_rank_is_the_choice_among_what_is_left_so_that_what_loses_more_comes_last() -> None:
    lossy = replace(FLOAT, variant_id="pruned", host_latency_p50_ms=0.001, host_latency_interval_ms=None)
    fast = replace(FLOAT, variant_id="static-int8", host_latency_p50_ms=0.003, host_latency_interval_ms=None)
    missing = Judgement(replace(FLOAT, variant_id="large"), Verdict.MISSES)
    unproven = Judgement(replace(fast, variant_id="unproven"), Verdict.UNPROVEN)
    judgements = [Judgement(lossy, Verdict.FITS, caveat="may lose 0.07 of r2", unasked_points=7.0), missing, unproven]
    order = ranked([*judgements, *fits(FLOAT, fast)])
    assert [one.candidate.variant_id for one in order] == ["static-int8", FLOAT.variant_id, "unproven", "pruned"]
    assert ranked([missing]) == []
