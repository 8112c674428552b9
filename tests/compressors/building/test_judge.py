from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.building.choice import choose, explain
from compressors.building.judge import Candidate, Judgement, judge, refuse
from compressors.contract import Figure, Origin, Verdict
from compressors.metrics import METRICS
from edge_agent.protocol.profile import Arch, Cpu, DeviceProfile, Limits, Npu, NpuKind, RuntimeName

if TYPE_CHECKING:
    from random import Random

OWN_CPU, OTHER_CPU = "Cortex-A72", "Xeon"
GOOD = Candidate(
    "float32-litert-xnnpack-1",
    error=None,
    latency_p95_ms=Figure(value=7.0),
    host_latency_p50_ms=7.0,
    metric=0.90,
    metric_drop=0.0,
    metric_drop_at_least=0.0,
    metric_drop_at_most=None,
    metric_point=0.01,
    ram_bytes=30_000_000,
    download_bytes=17_000_000,
    storage_bytes=18_000_000,
)
SMALL = replace(
    GOOD,
    variant_id="static-int8-litert-xnnpack-2",
    latency_p95_ms=Figure(value=4.0),
    host_latency_p50_ms=4.0,
    metric=0.896,
    metric_drop=0.004,
    ram_bytes=9_000_000,
    download_bytes=4_500_000,
    storage_bytes=5_000_000,
)
TOP1, RMSE = METRICS["top1"], METRICS["rmse"]


def board(*, device_ram: float = 1 << 30, device_storage: float = 1 << 30, **limits: float) -> DeviceProfile:
    return DeviceProfile(
        name="board",
        arch=Arch.AARCH64,
        cpu=Cpu(model=OWN_CPU, cores=4),
        ram_bytes=int(device_ram),
        storage_bytes=int(device_storage),
        runtimes=(RuntimeName.LITERT,),
        limits=Limits.model_validate(limits),
    )


def verdict(candidate: Candidate, profile: DeviceProfile, *, host: str | None = OTHER_CPU) -> Judgement:
    return judge(candidate, profile, TOP1, host_cpu_model=host)


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        ({"ram_bytes": 20_000_000}, "ram_bytes"),
        ({"download_bytes": 5_000_000}, "download_bytes"),
        ({"storage_bytes": 6_000_000}, "storage_bytes"),
    ],
)
def test_profile_too_small_for_float_gets_int8(limits: dict[str, float], limit: str) -> None:
    judgements = [verdict(one, board(**limits)) for one in (GOOD, SMALL)]
    assert [one.verdict for one in judgements] == [Verdict.MISSES, Verdict.FITS]
    assert [miss.limit for miss in judgements[0].misses] == [limit]
    chosen = choose(judgements)
    assert chosen is not None
    assert chosen.candidate is SMALL


@pytest.mark.parametrize(
    ("limit_ms", "expected"),
    [
        pytest.param(31.0, Verdict.FITS, id="above-the-interval"),
        pytest.param(30.0, Verdict.FITS, id="its-upper-end"),
        pytest.param(25.0, Verdict.UNPROVEN, id="above-the-value"),
        pytest.param(15.0, Verdict.UNPROVEN, id="below-the-value"),
        pytest.param(9.0, Verdict.MISSES, id="below-the-interval"),
    ],
)
def test_predicted_latency_counts_only_with_its_whole_interval(limit_ms: float, expected: Verdict) -> None:
    predicted = Figure(value=20.0, low=10.0, high=30.0, origin=Origin.PREDICTED)
    judgement = verdict(replace(GOOD, latency_p95_ms=predicted), board(latency_p95_ms=limit_ms))
    assert judgement.verdict is expected
    if expected is Verdict.UNPROVEN:
        assert judgement.reason == (
            "its latency on Cortex-A72, predicted from published figures, is 10 to 30 ms: "
            "the first device's self-test decides"
        )


def test_budget_of_the_device_itself_is_a_limit() -> None:
    assert [m.limit for m in verdict(GOOD, board(device_ram=20_000_000)).misses] == ["ram_bytes"]
    assert [m.limit for m in verdict(GOOD, board(device_storage=6_000_000)).misses] == ["storage_bytes"]


def test_profile_that_nothing_fits_is_refused_with_the_limit_that_binds_and_the_nearest_miss() -> None:
    profile = board(download_bytes=4_000_000)
    judgements = [verdict(one, profile) for one in (GOOD, SMALL)]
    assert choose(judgements) is None
    refusal = refuse(judgements, profile)
    assert (refusal.limit, refusal.allowed, refusal.nearest) == ("download_bytes", 4_000_000, 4_500_000)
    assert refusal.nearest_variant_id == SMALL.variant_id
    assert refusal.sentence == (
        "no variant fits board: download_bytes may be 4,000,000, "
        "and the nearest miss (static-int8-litert-xnnpack-2) has 4,500,000"
    )


def test_refusal_names_the_worst_miss_of_the_candidate_that_came_nearest() -> None:
    profile = board(download_bytes=4_400_000, metric_floor=0.8999)
    judgements = [verdict(one, profile) for one in (GOOD, SMALL)]
    refusal = refuse(judgements, profile)
    assert (refusal.limit, refusal.nearest_variant_id) == ("download_bytes", SMALL.variant_id)


def test_profile_on_whose_runtimes_nothing_ran_is_refused_with_the_reason() -> None:
    failed = Candidate("a", "litert can't load it", *([None] * 10))
    judgement = verdict(failed, board())
    assert judgement.verdict is Verdict.UNMEASURED
    assert choose([judgement]) is None
    refusal = refuse([judgement], board())
    assert refusal.limit == "runtimes"
    assert "litert can't load it" in refusal.sentence


def test_latency_of_another_cpu_never_satisfies_nor_breaks_a_limit() -> None:
    for limit_ms in (0.001, 1000.0):
        judgement = verdict(GOOD, board(latency_p95_ms=limit_ms))
        assert judgement.verdict is Verdict.UNPROVEN
        assert OWN_CPU in judgement.reason


@pytest.mark.parametrize("host", [None, OTHER_CPU, "cortex-a72"])
def test_latency_of_an_unknown_or_differently_named_cpu_proves_nothing(host: str | None) -> None:
    assert verdict(GOOD, board(latency_p95_ms=1000.0), host=host).verdict is Verdict.UNPROVEN


@pytest.mark.parametrize(("limit_ms", "expected"), [(7.0, Verdict.FITS), (6.9, Verdict.MISSES)])
def test_latency_of_the_profiles_own_cpu_decides(limit_ms: float, expected: Verdict) -> None:
    assert verdict(GOOD, board(latency_p95_ms=limit_ms), host=OWN_CPU).verdict is expected


@pytest.mark.parametrize("origin", [Origin.DEVICE, Origin.PREDICTED])
@pytest.mark.parametrize(("value", "expected"), [(40.0, Verdict.FITS), (60.0, Verdict.MISSES)])
def test_latency_from_a_device_decides(origin: Origin, value: float, expected: Verdict) -> None:
    candidate = replace(GOOD, latency_p95_ms=Figure(value=value, origin=origin))
    assert verdict(candidate, board(latency_p95_ms=50.0)).verdict is expected


def test_memory_that_nobody_has_measured_meets_no_limit() -> None:
    unmeasured = replace(GOOD, ram_bytes=None)
    judgement = verdict(unmeasured, board(ram_bytes=40_000_000))
    assert judgement.verdict is Verdict.UNPROVEN
    assert judgement.reason == "its memory is not known: the first device's self-test decides"
    assert verdict(unmeasured, board()).verdict is Verdict.UNPROVEN, "every device has an end of it"
    on_device = replace(unmeasured, latency_p95_ms=Figure(value=7.0, origin=Origin.DEVICE))
    assert verdict(on_device, board(ram_bytes=40_000_000)).verdict is Verdict.FITS, "it ran there"
    missing = verdict(unmeasured, board(ram_bytes=40_000_000, download_bytes=1_000_000))
    assert missing.verdict is Verdict.MISSES


def test_without_a_limit_no_latency_needs_proof() -> None:
    assert verdict(GOOD, board()).verdict is Verdict.FITS


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"metric_floor": 0.897}, Verdict.MISSES),
        ({"metric_floor": 0.896}, Verdict.FITS),
        ({"metric_max_drop": 0.003}, Verdict.MISSES),
        ({"metric_max_drop": 0.004}, Verdict.FITS),
    ],
)
def test_metric_limits_where_more_is_better(limits: dict[str, float], expected: Verdict) -> None:
    assert verdict(SMALL, board(**limits)).verdict is expected


@pytest.mark.parametrize(("floor", "expected"), [(0.8, Verdict.MISSES), (0.95, Verdict.FITS)])
def test_metric_floor_where_less_is_better_is_a_ceiling(floor: float, expected: Verdict) -> None:
    judgement = judge(SMALL, board(metric_floor=floor), RMSE, host_cpu_model=None)
    assert judgement.verdict is expected


def test_nearest_miss_weighs_a_metric_without_bounds_by_the_size_of_its_floor() -> None:
    profile = board(metric_floor=2000.0, download_bytes=1_000_000)
    slightly_wrong = replace(SMALL, variant_id="accurate", metric=2100.0, download_bytes=900_000)
    too_large = replace(SMALL, variant_id="large", metric=1900.0, download_bytes=3_000_000)
    judgements = [judge(one, profile, RMSE, host_cpu_model=None) for one in (slightly_wrong, too_large)]
    refusal = refuse(judgements, profile)
    assert (refusal.nearest_variant_id, refusal.limit) == ("accurate", "metric_floor")


def test_profile_silent_about_the_metric_still_refuses_a_broken_model() -> None:
    broken = replace(SMALL, metric=0.0, metric_drop=0.90, metric_drop_at_least=0.85)
    judgements = [verdict(one, board()) for one in (broken, GOOD)]
    assert judgements[0].verdict is Verdict.MISSES
    assert judgements[0].reason == "metric_max_drop is 0.85 or more, where the profile sets no limit 0.02 is the most"
    chosen = choose(judgements)
    assert chosen is not None
    assert chosen.candidate is GOOD


def test_profile_silent_about_the_metric_takes_a_drop_that_may_be_chance() -> None:
    unlucky = replace(SMALL, metric=0.85, metric_drop=0.05, metric_drop_at_least=0.0)
    judgement = verdict(unlucky, board())
    assert judgement.verdict is Verdict.FITS
    assert judgement.reason == (
        "it may lose 0.05 of top1 (0.05 as measured), on which the profile sets no limit (metric_max_drop)"
    )
    assert verdict(unlucky, board(metric_max_drop=0.05)).reason == ""


@pytest.mark.parametrize(("drop", "said"), [(0.005, False), (0.0051, True)])
def test_profile_silent_about_the_metric_loses_half_a_point_in_silence_and_not_more(drop: float, *, said: bool) -> None:
    lossy = replace(SMALL, metric_drop=drop)
    assert (verdict(lossy, board()).caveat != "") is said
    for one, profile in ((lossy, board()), (replace(lossy, metric_point=0.02), board())):
        chosen = choose([verdict(candidate, profile) for candidate in (GOOD, one)])
        assert chosen is not None
        assert (chosen.candidate is one) is (not said or one.metric_point == 0.02), "what loses less goes first"


def test_loss_that_few_rows_can_not_rule_out_gives_way_to_one_that_they_can() -> None:
    """Of hundreds that a search tries, some lose nothing on a few hundred rows, by luck."""
    lucky = replace(SMALL, metric_drop=0.0, metric_drop_at_least=-0.021, metric_drop_at_most=0.027)
    judgements = [verdict(one, board()) for one in (GOOD, lucky)]
    assert judgements[1].reason == (
        "it may lose 0.027 of top1 (0 as measured), on which the profile sets no limit (metric_max_drop)"
    )
    assert choose(judgements) is judgements[0]
    assert choose([judgements[1]]) is judgements[1], "nothing else fits"
    sure = replace(lucky, metric_drop_at_most=0.005)
    assert verdict(sure, board()).reason == ""


UNCHANGED = replace(
    SMALL, metric_drop=0.0, metric_drop_at_least=0.0, metric_drop_at_most=0.0, metric_interval=(0.8, 1.0)
)


@pytest.mark.parametrize("limits", [{}, {"metric_max_drop": 0.005}])
@pytest.mark.parametrize(("sources", "told"), [(1, "1 source"), (29, "29 sources")])
def test_few_sources_can_not_tell_that_nothing_is_lost(limits: dict[str, float], sources: int, told: str) -> None:
    judgements = [verdict(one, board(**limits)) for one in (GOOD, replace(UNCHANGED, metric_sources=sources))]
    assert judgements[1].reason == (
        f"it may lose more of top1 than was measured (0): how much can't be told from {told}"
    )
    assert choose(judgements) is judgements[0], "it answers as the float model does"
    assert choose(judgements[1:]) is judgements[1], "nothing else fits"


def test_floor_allows_what_few_sources_can_not_tell() -> None:
    judgements = [verdict(one, board(metric_floor=0.8)) for one in (GOOD, replace(UNCHANGED, metric_sources=8))]
    assert "can't be told from 8 sources" in judgements[1].reason
    assert choose(judgements) is judgements[1]


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (300, "it may lose up to 0.01 of top1, which 300 sources can't show"),
        (600, ""),
        (None, ""),
    ],
)
def test_decisions_that_did_not_change_are_said_to_be_few_and_do_not_give_way(sources: int | None, said: str) -> None:
    judgements = [verdict(one, board()) for one in (GOOD, replace(UNCHANGED, metric_sources=sources))]
    assert judgements[1].reason == said
    assert choose(judgements) is judgements[1]
    smooth = judge(replace(UNCHANGED, metric_sources=sources), board(), METRICS["r2"], host_cpu_model=None)
    assert smooth.reason == "", "numbers that change at all change this metric"


def test_floor_allows_a_loss_that_is_said_all_the_same() -> None:
    lossy = replace(SMALL, metric=0.87, metric_drop=0.03, metric_drop_at_least=0.025)
    judgements = [verdict(one, board(metric_floor=0.8)) for one in (GOOD, lossy)]
    assert judgements[1].verdict is Verdict.FITS
    assert judgements[1].reason == "it may lose 0.03 of top1 (0.03 as measured), which the metric_floor allows"
    assert choose(judgements) is judgements[1], "what a floor allows need not give way"
    assert explain(judgements, metric="top1").startswith(
        "static-int8-litert-xnnpack is the fastest of 2, 4 ms on the host, "
        "though it may lose 0.03 of top1 (0.03 as measured), "
    )


LUCKY = replace(SMALL, metric=0.9, metric_drop=0.0, metric_drop_at_least=-0.06, metric_drop_at_most=0.07)


@pytest.mark.parametrize("limits", [{}, {"metric_max_drop": 0.005}, {"metric_max_drop": 0.005, "metric_floor": 0.1}])
def test_limit_on_the_loss_protects_from_luck_as_silence_does(limits: dict[str, float]) -> None:
    judgements = [verdict(one, board(**limits)) for one in (GOOD, LUCKY)]
    assert choose(judgements) is judgements[0]
    assert choose(judgements[1:]) is judgements[1], "nothing else fits"
    told = explain(judgements[1:], metric="top1")
    assert "though it may lose 0.07 of top1 (0 as measured)" in told
    assert judgements[1].reason in told.replace("though ", "")


def test_limit_that_a_loss_surely_keeps_is_kept_in_silence() -> None:
    """What may break a limit by little gives way like what may break it by much."""
    judgements = [verdict(one, board(metric_max_drop=0.07)) for one in (GOOD, LUCKY)]
    assert (judgements[1].reason, judgements[1].unasked_points) == ("", None)
    assert choose(judgements) is judgements[1]
    slightly = replace(LUCKY, metric_drop_at_most=0.004)
    strict = [verdict(one, board(metric_max_drop=0.003)) for one in (GOOD, slightly)]
    assert strict[1].reason == "it may lose 0.004 of top1 (0 as measured), more than the metric_max_drop of 0.003"
    assert choose(strict) is strict[0]


def test_floor_that_may_not_be_met_is_said_and_gives_way() -> None:
    sure = replace(GOOD, metric_interval=(0.87, 0.93))
    doubtful = replace(SMALL, metric=0.87, metric_drop=0.0, metric_interval=(0.8, 0.94))
    judgements = [verdict(one, board(metric_floor=0.85)) for one in (sure, doubtful)]
    assert judgements[1].verdict is Verdict.FITS
    assert judgements[1].reason == "it may have 0.8 of top1 (0.87 as measured), where the metric_floor is 0.85"
    assert judgements[1].unasked_points == pytest.approx(5.0)
    assert choose(judgements) is judgements[0]
    assert choose(judgements[1:]) is judgements[1], "nothing else fits"


def test_floor_of_a_metric_where_less_is_better_is_held_against_the_upper_end() -> None:
    candidate = replace(SMALL, metric=0.9, metric_drop=0.0, metric_interval=(0.1, 0.97))
    judgement = judge(candidate, board(metric_floor=0.95), RMSE, host_cpu_model=None)
    assert judgement.reason == "it may have 0.97 of rmse (0.9 as measured), where the metric_floor is 0.95"


def test_profile_silent_about_the_metric_that_gets_a_lossy_model_is_told() -> None:
    judgements = [verdict(one, board(download_bytes=5e6)) for one in (GOOD, replace(SMALL, metric_drop=0.03))]
    chosen = choose(judgements)
    assert chosen is not None
    assert "may lose 0.03" in chosen.reason


def test_what_loses_little_goes_before_what_is_proven_and_loses_more() -> None:
    """The first device finds out how fast a variant is, and nobody how right it is."""
    proven = replace(SMALL, metric_drop=0.015, latency_p95_ms=Figure(value=46.0, origin=Origin.DEVICE))
    judgements = [verdict(one, board(latency_p95_ms=50.0)) for one in (proven, GOOD)]
    assert [one.verdict for one in judgements] == [Verdict.FITS, Verdict.UNPROVEN]
    assert choose(judgements) is judgements[1]
    told = explain(judgements, metric="r2")
    assert told.endswith(
        "may lose 0.015 of top1 (0.015 as measured), on which the profile sets no limit (metric_max_drop)."
    )


def test_where_all_that_fit_lose_more_the_fastest_of_those_that_lose_least_is_chosen() -> None:
    losses = {"least": (9.0, 0.008), "fast": (4.0, 0.012), "faster": (2.0, 0.0181)}
    judgements = [
        verdict(replace(SMALL, variant_id=name, host_latency_p50_ms=ms, metric_drop=drop), board())
        for name, (ms, drop) in losses.items()
    ]
    assert choose(judgements) is judgements[1]
    told = explain(judgements, metric="r2")
    assert told.startswith(
        "fast is the fastest of 2, 4 ms on the host, though it may lose 0.012 of top1 (0.012 as measured), on which "
    )


def test_loss_without_an_interval_counts_as_it_is() -> None:
    broken = replace(SMALL, metric=0.0, metric_drop=0.90, metric_drop_at_least=None)
    assert verdict(broken, board()).verdict is Verdict.MISSES


def test_fastest_is_chosen_and_among_equally_fast_ones_the_smallest() -> None:
    as_fast = replace(GOOD, variant_id="c", host_latency_p50_ms=4.2, download_bytes=3_000_000)
    slow = replace(GOOD, variant_id="d", host_latency_p50_ms=19.0, download_bytes=100)
    chosen = choose([verdict(one, board()) for one in (GOOD, SMALL, as_fast, slow)])
    assert chosen is not None
    assert chosen.candidate is as_fast


def test_proven_candidate_is_chosen_before_a_faster_unproven_one() -> None:
    proven = replace(GOOD, latency_p95_ms=Figure(value=46.0, origin=Origin.DEVICE))
    chosen = choose([verdict(one, board(latency_p95_ms=50.0)) for one in (proven, SMALL)])
    assert chosen is not None
    assert chosen.candidate is proven


def test_figures_of_devices_are_not_compared_with_those_of_the_host() -> None:
    tried = replace(SMALL, latency_p95_ms=Figure(value=46.0, origin=Origin.DEVICE))
    chosen = choose([verdict(one, board()) for one in (GOOD, tried)])
    assert chosen is not None
    assert chosen.candidate is tried  # 4 ms against 7 ms, both on the host


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    sizes = st.integers(1, 10**9)
    return [
        replace(
            GOOD,
            variant_id=f"v{number}",
            host_latency_p50_ms=draw(st.floats(0.001, 1e4)),
            metric=0.9 - (drop := draw(st.floats(0, 0.9))),
            metric_drop=drop,
            metric_drop_at_least=drop,
            ram_bytes=draw(sizes),
            download_bytes=draw(sizes),
            storage_bytes=draw(sizes),
        )
        for number in range(draw(st.integers(1, 6)))
    ]


@settings(deadline=None, max_examples=50)
@given(candidates(), st.integers(1, 10**9), st.floats(0, 1), st.randoms(use_true_random=False))
def test_choice_is_within_all_limits_or_explained_whatever_the_order(
    found: list[Candidate], download_bytes: int, max_drop: float, shuffler: Random
) -> None:
    profile = board(download_bytes=download_bytes, metric_max_drop=max_drop)
    judgements = [verdict(one, profile) for one in found]
    chosen = choose(judgements)
    if chosen is None:
        refusal = refuse(judgements, profile)
        assert refusal.nearest_variant_id in {one.variant_id for one in found}
        assert refusal.nearest > refusal.allowed
        assert all(judgement.misses for judgement in judgements)
    else:
        assert (chosen.candidate.download_bytes or 0) <= download_bytes
        assert (chosen.candidate.metric_drop or 0.0) <= max_drop
    shuffler.shuffle(judgements)
    again = choose(judgements)
    assert (again and again.candidate.variant_id) == (chosen and chosen.candidate.variant_id)


@pytest.mark.parametrize(("fallback", "expected"), [(False, Verdict.MISSES), (True, Verdict.UNPROVEN)])
def test_operators_that_fall_back_to_the_cpu_are_the_profile_s_decision(*, fallback: bool, expected: Verdict) -> None:
    npu = Npu(kind=NpuKind.ETHOS_U65, configuration="ethos-u65-256", cpu_fallback=fallback)
    profile = board().model_copy(update={"npu": npu})
    candidate = replace(GOOD, latency_p95_ms=None, operators_off_npu=2)
    assert verdict(candidate, profile).verdict is expected
    assert verdict(replace(candidate, operators_off_npu=0), profile).verdict is Verdict.UNPROVEN


@pytest.mark.parametrize("limits", [{}, {"latency_p95_ms": 50.0}, {"ram_bytes": 40_000_000}], ids=str)
def test_file_for_an_npu_is_unproven_until_a_device_has_run_it(limits: dict[str, float]) -> None:
    on_npu = replace(GOOD, latency_p95_ms=None, ram_bytes=None, operators_off_npu=0)
    profile = board(device_ram=64 << 20, **limits)
    judgement = verdict(on_npu, profile)
    assert judgement.verdict is Verdict.UNPROVEN
    assert judgement.reason == "no device has run it on its NPU: the first device's self-test decides"
    ran = verdict(replace(on_npu, latency_p95_ms=Figure(value=9.0, origin=Origin.DEVICE)), profile)
    assert (ran.verdict, ran.reason) == (Verdict.FITS, "")


def test_variant_for_the_npu_is_tried_before_one_for_the_cpu_that_is_proven() -> None:
    on_npu = replace(GOOD, variant_id="npu", latency_p95_ms=None, ram_bytes=None, operators_off_npu=0)
    judgements = [verdict(one, board(ram_bytes=40_000_000)) for one in (GOOD, on_npu)]
    assert [one.verdict for one in judgements] == [Verdict.FITS, Verdict.UNPROVEN]
    assert choose(judgements) is judgements[1]
    assert explain(judgements, metric="top1") == (
        "npu is the only one for the NPU; "
        "the nearest alternative, float32-litert-xnnpack, runs on the CPU, and no device has measured both."
    )


def test_variant_for_the_npu_is_chosen_until_devices_have_measured_both() -> None:
    on_npu = replace(GOOD, variant_id="npu", latency_p95_ms=None, host_latency_p50_ms=90.0, operators_off_npu=0)
    assert choose([verdict(GOOD, board()), verdict(on_npu, board())]).candidate is on_npu  # type: ignore[union-attr]
    slower = replace(on_npu, latency_p95_ms=Figure(value=9.0, origin=Origin.DEVICE))
    faster = replace(GOOD, latency_p95_ms=Figure(value=7.0, origin=Origin.DEVICE))
    assert choose([verdict(faster, board()), verdict(slower, board())]).candidate is faster  # type: ignore[union-attr]
