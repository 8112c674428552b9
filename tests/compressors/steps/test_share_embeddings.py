from __future__ import annotations

import numpy as np
import pytest
import torch

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import NoEffectError
from compressors.inputs import program
from compressors.step import Context, Model, content_of
from compressors.steps.export_litert import STEP as EXPORT
from compressors.steps.share_embeddings import STEP as SHARE
from tests.compressors.steps.applying import apply, context_of, first_output


class Films(torch.nn.Module):
    """Whom a film pleases, by a table of films that is nearly all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.films = torch.nn.Embedding(2000, 16)
        self.score = torch.nn.Linear(16, 1)

    def forward(self, film: torch.Tensor) -> torch.Tensor:
        score: torch.Tensor = self.score(torch.tanh(self.films(film)))
        return score


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> program.FloatModel:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("films") / "films.pt2"
    free = {"film": {0: torch.export.Dim("batch", max=4096)}}
    torch.export.save(torch.export.export(Films().eval(), (torch.arange(2),), dynamic_shapes=free), path)
    return program.load(path)


@pytest.fixture(scope="module")
def evaluation(network: program.FloatModel, tmp_path_factory: pytest.TempPathFactory) -> evaluation_rows.EvaluationData:
    path = tmp_path_factory.mktemp("films") / "films.npz"
    film = np.random.default_rng(0).integers(0, 2000, 400)
    np.savez(path, film=film, query=np.arange(400) // 20, target=(np.arange(400) % 20 == 0).astype(np.float32))
    return evaluation_rows.load(path, network.signature, Task.RANKING)


@pytest.fixture(scope="module")
def context(evaluation: evaluation_rows.EvaluationData) -> Context:
    return context_of(evaluation, Task.RANKING)


@pytest.mark.parametrize("way", ["shared", "hashed"])
def test_smaller_tables_are_in_the_file_and_it_answers_as_the_network(
    way: str, network: program.FloatModel, evaluation: evaluation_rows.EvaluationData, context: Context
) -> None:
    outcome = apply(SHARE, Model(network), context, way=way, rows=0.25)
    assert list(outcome.layers) == ["films"]
    assert outcome.model.network.parameters < 0.3 * network.parameters
    before, after = (apply(EXPORT, model, context).model for model in (Model(network), outcome.model))
    assert len(content_of(after)) < 0.5 * len(content_of(before))
    expected = first_output(outcome.model, evaluation.test)
    assert np.allclose(first_output(after, evaluation.test), expected, atol=1e-4)


def test_network_without_large_tables_is_told_to_leave_the_step_out(
    network: program.FloatModel, context: Context
) -> None:
    with pytest.raises(NoEffectError, match="no embedding has 9999 entries or more"):
        apply(SHARE, Model(network), context, min_entries=9999)
