import pytest

from server.catalogue.near import near, no_model, no_version


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lite", ["lite0", "lite0-wide"]),
        ("LITE0", ["lite0", "lite0-wide"]),
        ("lit0", ["lite0"]),
        ("pirce", ["price"]),
        ("zzz", []),
        ("", []),
    ],
)
def test_near_finds_what_a_slip_of_the_hand_meant(name: str, meant: list[str]) -> None:
    found = near(name, ["price", "lite0", "lite0-wide"])
    assert found[: len(meant)] == meant
    assert bool(found) == bool(meant)


def test_no_model_names_the_near_ones_or_says_that_there_are_none() -> None:
    assert "did you mean lite0?" in no_model("lite", ["lite0", "price"])
    assert "model list" in no_model("zzz", ["lite0"])
    assert "nothing was pushed yet" in no_model("lite0", [])


def test_no_version_lists_the_newest_versions_and_counts_the_rest() -> None:
    assert "it has 2, 1; push" in no_version("m", "9", ["2", "1"])
    assert "it has 9, 8, 7, 6, 5 and 4 older ones; push" in no_version("m", "10", list("987654321"))
