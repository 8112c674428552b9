"""Where an agent keeps what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("model", ["control", "report", "lock", "state"])
def test_layout_of_a_model_of_any_name_meets_none_of_the_agents_own_files(tmp_path: Path, model: str) -> None:
    layout = Layout(tmp_path)
    own = {layout.control_socket, layout.report_socket, layout.journal_dir, layout.lock, layout.state_db}
    assert not own & {layout.model_socket(model), layout.active_pointer(model)}
