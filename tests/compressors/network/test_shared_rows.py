"""Fewer rows than entries: what is alike is shared, what is not still differs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressors.network.shared_rows import hashed, least_hashed_rows, shared

ENTRIES, KINDS, WIDTH = 300, 20, 8


def rows_of(chain: dict[str, nn.Module], entries: int = ENTRIES) -> torch.Tensor:
    with torch.no_grad():
        rows: torch.Tensor = nn.Sequential(*chain.values())(torch.arange(entries))
    return rows


@pytest.fixture
def alike() -> nn.Embedding:
    """Entries of a few kinds, each a little different from its kind."""
    torch.manual_seed(0)
    kinds = torch.randn(KINDS, WIDTH)
    rows = kinds[torch.arange(ENTRIES) % KINDS] + 0.02 * torch.randn(ENTRIES, WIDTH)
    layer: nn.Embedding = nn.Embedding.from_pretrained(rows)
    return layer


def test_entries_that_are_alike_share_a_row(alike: nn.Embedding) -> None:
    chain = shared(alike, None, 4 * KINDS, seed=0)
    assert (rows_of(chain) - alike.weight).square().sum() < 0.01 * alike.weight.square().sum()
    assert sum(weight.numel() for weight in chain["table"].parameters()) == 4 * KINDS * WIDTH


def test_entry_that_is_looked_up_often_gets_the_better_row(alike: nn.Embedding) -> None:
    counts = torch.zeros(ENTRIES)
    counts[:5] = 1000.0
    error = (rows_of(shared(alike, counts, 8, seed=0)) - alike.weight).square().sum(1)
    assert error[:5].mean() < 0.01 * error[5:].mean()


def test_hashed_entries_differ_and_are_the_best_sum_of_two_rows(alike: nn.Embedding) -> None:
    rows = rows_of(hashed(alike, None, 60))
    assert len(torch.unique(rows, dim=0)) == ENTRIES
    assert (rows - alike.weight).square().sum() < alike.weight.square().sum()


def test_entries_that_are_sums_of_two_rows_lose_nothing() -> None:
    torch.manual_seed(1)
    quotients, remainders = torch.randn(10, WIDTH), torch.randn(30, WIDTH)
    entry = torch.arange(ENTRIES)
    layer = nn.Embedding.from_pretrained(quotients[entry // 30] + remainders[entry % 30])
    assert torch.allclose(rows_of(hashed(layer, None, 40)), layer.weight, atol=1e-4)


@pytest.mark.parametrize("entries", [4, 5, 16, 17, 1682, 9999])
def test_least_hashed_rows_are_enough_and_one_fewer_is_not(entries: int) -> None:
    layer, least = nn.Embedding(entries, 2), least_hashed_rows(entries)
    assert len(torch.unique(rows_of(hashed(layer, None, least), entries), dim=0)) == entries
    with pytest.raises(ValueError, match=f"{least} are needed"):
        hashed(layer, None, least - 1)
