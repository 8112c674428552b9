"""What the ingest process decides before it serves."""

from pathlib import Path

from server.processes.ingest import name_of


def test_name_of_stays_after_a_restart_and_differs_by_machine_and_folder() -> None:
    first, second = Path("/srv/one"), Path("/srv/two")
    assert name_of("a", first) == name_of("a", first)
    assert len({name_of("a", first), name_of("b", first), name_of("a", second)}) == 3
