from __future__ import annotations

from compressors.searching.front import dominates, pareto_front


def test_point_dominates_only_where_it_is_nowhere_worse() -> None:
    assert dominates((1, 2), (1, 3))
    assert not dominates((1, 2), (1, 2))
    assert not dominates((1, 3), (2, 2))


def test_front_holds_what_nothing_beats_and_equals_once() -> None:
    points = [(3, 3), (1, 4), (4, 1), (2, 2), (2, 2), (5, 5)]
    assert pareto_front(points, lambda point: point) == [(1, 4), (4, 1), (2, 2)]
