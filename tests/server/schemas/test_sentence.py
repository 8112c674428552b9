"""What people read when a document does not fit."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from edge_agent.protocol.profile import DeviceProfile
from server.schemas.fleet import TokenRequest
from server.schemas.rollouts import RolloutRequest
from server.schemas.sentence import sentence

PROFILE = {
    "name": "pi-x",
    "arch": "aarch64",
    "cpu": {"model": "Cortex-A72", "cores": 4},
    "ram_bytes": 1 << 30,
    "storage_bytes": 1 << 28,
    "runtimes": ["litert"],
}
ROLLOUT = {"model": "net", "version": "1"}


def told(model: type[BaseModel], document: object) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(document)
    return sentence(caught.value.errors(include_url=False))


@pytest.mark.parametrize(
    ("model", "document", "expected"),
    [
        pytest.param(
            DeviceProfile,
            {**PROFILE, "npu": "warp-drive"},
            "npu is 'warp-drive': it should be a mapping of names to values.",
            id="mapping",
        ),
        pytest.param(
            DeviceProfile, {**PROFILE, "runtimes": "litert"}, "runtimes is 'litert': it should be a list.", id="list"
        ),
        pytest.param(
            DeviceProfile,
            {**PROFILE, "ram_bytes": -5},
            "ram_bytes is -5: it should be greater than or equal to 0.",
            id="number",
        ),
        pytest.param(
            TokenRequest,
            {"labels": {"a b": "x"}},
            "a name in labels is 'a b', but a label has 1 to 32 letters, digits, dots, dashes or underscores, "
            "beginning with a letter.",
            id="label",
        ),
        pytest.param(
            TokenRequest,
            {"labels": {"site": "x y"}},
            "labels.site is 'x y', but a label's value has 1 to 63 letters, digits, or any of . _ - + /.",
            id="label-value",
        ),
        pytest.param(
            RolloutRequest,
            "{}",
            "the body is '{}': it should be a JSON object, sent with the content type application/json.",
            id="whole-body",
        ),
    ],
)
def test_document_that_does_not_fit_is_told_without_words_of_a_library(
    model: type[BaseModel], document: object, expected: str
) -> None:
    assert told(model, document) == expected


def test_value_that_is_long_is_cut_where_the_ellipsis_is() -> None:
    assert f"model is '{'t' * 80}…', but a name has" in told(RolloutRequest, {**ROLLOUT, "model": "t" * 300})
