import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.rollouts.plan import WavesError, cut_waves, order_devices, parse_waves
from server.schemas.rollouts import Wave


@pytest.mark.parametrize(
    ("text", "waves"),
    [
        ("100%", (Wave(percent=100.0),)),
        (" 10% , 100 %", (Wave(percent=10.0), Wave(percent=100.0))),
        ("1,5,100%", (Wave(count=1), Wave(count=5), Wave(percent=100.0))),
        ("0.5%,2.25%", (Wave(percent=0.5), Wave(percent=2.25))),
    ],
)
def test_parse_waves_valid_text_gives_waves(text: str, waves: tuple[Wave, ...]) -> None:
    assert parse_waves(text) == waves


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"),
        ("10%,,100%", "''"),
        ("0%", "'0%'"),
        ("101%", "'101%'"),
        ("-5", "'-5'"),
        ("0", "'0'"),
        ("999999999", "'999999999'"),
        ("ten", "'ten'"),
        ("10%,10%", "10% follows 10%"),
        ("5,3", "3 follows 5"),
        ("nan%", "'nan%'"),
        ("٣%", "٣%"),
        (",".join(["1"] * 40), "at most 32"),
    ],
)
def test_parse_waves_bad_text_is_one_sentence_that_names_the_part(text: str, named: str) -> None:
    with pytest.raises(WavesError) as caught:
        parse_waves(text)
    assert named in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_cut_waves_shares_round_up_and_counts_are_cumulative() -> None:
    ordered = [f"d{i}" for i in range(100)]
    sizes = [len(wave) for wave in cut_waves(ordered, parse_waves("1,7%,50,100%"))]
    assert sizes == [1, 6, 43, 50]
    assert [len(wave) for wave in cut_waves(ordered[:3], parse_waves("10%,100%"))] == [1, 2]
    assert [len(wave) for wave in cut_waves(ordered[:3], parse_waves("100%,5"))] == [3, 0]


@given(
    st.sets(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), max_size=60),
    st.integers(-(2**60), 2**60),
    st.lists(st.floats(0.01, 100).map(lambda p: Wave(percent=p)) | st.integers(1, 80).map(lambda c: Wave(count=c))),
)
def test_cut_waves_any_plan_has_each_device_at_most_once_in_a_stable_order(
    devices: set[str], seed: int, waves: list[Wave]
) -> None:
    ordered = order_devices(devices, seed=seed)
    assert ordered == order_devices(sorted(devices, reverse=True), seed=seed)
    reached = [device for wave in cut_waves(ordered, waves) for device in wave]
    assert reached == ordered[: len(reached)]
    without = order_devices(sorted(devices)[1:], seed=seed)
    assert without == [device for device in ordered if device in without], "who else is there changes no order"


def test_order_devices_other_seed_gives_another_order() -> None:
    devices = [f"d{i}" for i in range(50)]
    assert order_devices(devices, seed=1) != order_devices(devices, seed=2)
