"""What is left on the disk: spool, blocks, unpacked variants, state, after good and bad input."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from edge_agent.errors import DigestMismatchError, EdgeAgentError
from edge_agent.layout import Layout
from edge_agent.protocol.manifest import Encoding, ObjectDescriptor, VariantManifest
from edge_agent.protocol.messages import Ack, AckRange, Reply, ReplyStatus, TelemetryReport, decode
from edge_agent.protocol.states import DeploymentState
from edge_agent.supervisor import unpack as unpack_module
from edge_agent.supervisor import variants
from edge_agent.supervisor.blocks import BlockFile, DiskFullError
from edge_agent.supervisor.board import parse_memory_available_bytes, parse_throttled
from edge_agent.supervisor.database import open_database, transaction
from edge_agent.supervisor.events import Persist
from edge_agent.supervisor.fetch import BlockFetch
from edge_agent.supervisor.http_fetch import runs
from edge_agent.supervisor.listeners import listen_unix
from edge_agent.supervisor.records import Accepted, DeploymentRecord, ModelSlot
from edge_agent.supervisor.spool import CLOCK_FLOOR, Spool
from edge_agent.supervisor.store import Counter, StateStore
from edge_agent.supervisor.unpack import CorruptObjectError, PayloadSizeError, unpack
from edge_agent.supervisor.variants import VariantFolders
from tests.edge_agent.supervisor.conftest import ToyVariant, make_variant

if TYPE_CHECKING:
    from pathlib import Path

NOW = CLOCK_FLOOR + 1e8


def report(requests: int = 1) -> TelemetryReport:
    return TelemetryReport(
        spool_id="0" * 32,
        sequence=0,
        model="net",
        version="1",
        variant_id="v",
        deployment_id="d1",
        window_start=0.0,
        window_s=1.0,
        requests=requests,
    )


def open_spool(path: Path, *, limit_bytes: int = 1 << 20, limit_age_s: float = 1e6) -> Spool:
    return Spool(path / "spool.db", limit_bytes=limit_bytes, limit_age_s=limit_age_s)


def test_spool_keeps_reports_over_a_restart_and_numbers_never_repeat(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.add([report(n) for n in range(3)], unix_s=NOW)
    spool.free(Ack(ranges=(AckRange(spool_id=spool.spool_id, first=1, last=3),)))
    spool.add([report(9)], unix_s=NOW)
    first = spool.spool_id
    spool.close()
    again = open_spool(tmp_path)
    (sequence, payload) = again.pending(after=0, limit=9)[0]
    assert again.spool_id == first
    assert sequence == 4
    assert decode(TelemetryReport, payload).sequence == 4
    again.close()


@pytest.mark.parametrize(
    ("spool_id", "first", "last", "left"),
    [(None, 1, 2, 1), (None, 2, 1 << 53, 1), ("f" * 32, 1, 3, 3), (None, 3, 1, 3), (None, 0, 0, 3)],
    ids=["some", "to-the-end", "another-spool", "backwards", "none"],
)
def test_spool_is_freed_only_of_what_the_ack_names(
    tmp_path: Path, spool_id: str | None, first: int, last: int, left: int
) -> None:
    spool = open_spool(tmp_path)
    spool.add([report(), report(), report()], unix_s=NOW)
    ack = Ack(ranges=(AckRange(spool_id=spool_id or spool.spool_id, first=first, last=last),))
    for _ in range(2):  # an ack that comes twice frees nothing more
        spool.free(ack)
        assert spool.count == len(spool.pending(after=0, limit=9)) == left
    spool.close()


def test_spool_above_its_limit_drops_the_oldest_and_says_so_in_later_reports(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, limit_bytes=10_000)
    for _ in range(100):
        spool.add([report()], unix_s=NOW)
    assert spool.size_bytes <= 10_000
    assert spool.dropped + spool.count == 100
    spool.add([report()], unix_s=NOW)
    last = decode(TelemetryReport, spool.pending(after=0, limit=999)[-1][1])
    assert last.dropped_reports > 0
    spool.close()


def test_spool_drops_what_is_old_but_believes_no_clock_that_was_never_set(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, limit_age_s=100)
    spool.add([report()], unix_s=12.0)  # 1970 after boot
    spool.add([report()], unix_s=NOW)
    spool.add([report()], unix_s=NOW + 1000)
    assert [sequence for sequence, _ in spool.pending(after=0, limit=9)] == [1, 3]
    spool.close()


def test_spool_on_a_disk_that_takes_nothing_keeps_what_it_has(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, limit_age_s=100)
    spool.add([report(), report()], unix_s=NOW)
    spool._connection.execute("PRAGMA query_only = ON")  # as a file system that has become read-only
    assert spool.free(Ack(ranges=(AckRange(spool_id=spool.spool_id, first=1, last=2),))) == 0
    spool.add([report()], unix_s=NOW + 1000)
    spool._trim(NOW + 1000)
    assert (spool.count, spool.dropped) == (2, 1)
    spool._connection.execute("PRAGMA query_only = OFF")
    assert spool.free(Ack(ranges=(AckRange(spool_id=spool.spool_id, first=1, last=2),))) == 2
    spool.close()


@pytest.mark.parametrize("model", ["control", "report", "lock", "state"])
def test_layout_of_a_model_of_any_name_meets_none_of_the_agents_own_files(tmp_path: Path, model: str) -> None:
    layout = Layout(tmp_path)
    own = {layout.control_socket, layout.report_socket, layout.journal_dir, layout.lock, layout.state_db}
    assert not own & {layout.model_socket(model), layout.active_pointer(model)}


def test_counter_never_gives_a_number_twice_whatever_is_lost(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        store = StateStore(tmp_path / "state.db")
        counter = Counter(store, "session", lot=4)
        seen += [counter.take() for _ in range(6)]
        store.close()
    assert seen == sorted(set(seen))


def test_store_damaged_in_the_middle_is_set_aside_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = StateStore(path)
    store.reserve("session", 1)
    store.close()
    with path.open("r+b") as file:  # the header and the schema stay good: only the pages of the tables are lost
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    again = StateStore(path)
    again.load()
    assert again.reserve("session", 1) == 1
    again.close()
    assert (tmp_path / "state.db.damaged").exists()


def records_of(store: StateStore) -> dict[str, str]:
    return {record.deployment_id: record.state.value for record in store.load().records}


def test_store_on_a_disk_that_takes_nothing_goes_on_and_catches_up(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "state.db")
    counter = Counter(store, "status", lot=2)
    queued = {name: DeploymentRecord(wanted=make_variant().wanted(name)) for name in ("d1", "d2", "d3")}
    staged = queued["d2"].model_copy(update={"state": DeploymentState.STAGED})
    store.persist(Persist(records=(queued["d1"],), slots=(ModelSlot(model="net", active="d1"),)))
    numbers = [counter.take() for _ in range(2)]

    store._connection.execute("PRAGMA query_only = ON")  # as a file system that has become read-only
    store.persist(Persist(records=(queued["d2"], queued["d3"]), accepted=Accepted(epoch=1, generation=7)))
    store.persist(Persist(records=(staged,), forgotten=("d1", "d3"), emptied=("net",)))
    numbers += [counter.take() for _ in range(4)]
    assert records_of(store) == {"d1": "queued"}

    store._connection.execute("PRAGMA query_only = OFF")
    store.persist(Persist(records=(queued["d3"],)))
    numbers += [counter.take() for _ in range(2)]
    store.close()
    again = StateStore(tmp_path / "state.db")
    numbers.append(Counter(again, "status", lot=2).take())
    assert records_of(again) == {"d2": "staged", "d3": "queued"}
    assert (again.load().slots, again.load().accepted.generation) == ((), 7)
    assert numbers == sorted(set(numbers))
    again.close()


def test_transaction_whose_commit_is_refused_leaves_room_for_the_next(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "x.db", "CREATE TABLE IF NOT EXISTS t (x INTEGER)", synchronous="FULL")
    connection.executescript(
        "PRAGMA foreign_keys = ON; CREATE TABLE child (x INTEGER REFERENCES parent (x) DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TABLE parent (x INTEGER PRIMARY KEY);"
    )
    with pytest.raises(sqlite3.IntegrityError), transaction(connection):
        connection.execute("INSERT INTO child VALUES (1)")  # refused by COMMIT, as a full disk can be
    with transaction(connection):
        connection.execute("INSERT INTO t VALUES (1)")
    assert connection.execute("SELECT COUNT(*) FROM child").fetchone() == (0,)
    connection.close()


def test_used_bytes_counts_on_while_another_process_renames_what_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path)
    folders = VariantFolders(layout)
    half = tmp_path / "variants" / ".new-half"
    half.mkdir()
    (half / "model").write_bytes(bytes(8192))
    used = folders.used_bytes()
    assert used >= 8192

    def listed_before_the_rename(folder: Path) -> list[Path]:
        return [folder / "model", folder / "renamed-meanwhile"]

    monkeypatch.setattr(variants, "_files", listed_before_the_rename)
    assert folders.used_bytes() == used


def test_block_file_believes_only_blocks_whose_hash_is_right(tmp_path: Path) -> None:
    variant = make_variant(filler_bytes=50_000)
    described = variant.manifest.object
    blocks = BlockFile(tmp_path / "t", described)
    for index in range(described.block_count):
        start, length = described.block_span(index)
        block = variant.travelling[start : start + length]
        assert not blocks.write(index, b"\0" * length)
        assert not blocks.write(index, block[:-1])
        assert blocks.write(index, block)
        assert not blocks.write(index, block), "twice is not new"
    assert not blocks.write(-1, b"")
    assert not blocks.write(10_000, b"")
    assert blocks.complete
    assert blocks.done_bytes == described.size_bytes
    assert blocks.wrong_blocks == 2 * described.block_count
    blocks.close()
    with (tmp_path / "t" / "data").open("r+b") as file:
        file.seek(5000)
        file.write(b"flipped")
    again = BlockFile(tmp_path / "t", described)
    assert again.missing() == [5000 // 1024]
    again.close()


def test_block_file_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(DiskFullError):
        BlockFile(tmp_path / "t", make_variant().manifest.object)


def test_block_file_on_a_disk_that_fills_up_meanwhile_says_so_and_can_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = make_variant(filler_bytes=50_000)
    described = variant.manifest.object
    blocks = BlockFile(tmp_path / "t", described)

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", no_room)  # the blocks have their room, the bitmap has none

    def fill() -> None:
        for index in range(described.block_count):
            start, length = described.block_span(index)
            blocks.write(index, variant.travelling[start : start + length])

    with pytest.raises(DiskFullError):
        fill()
    blocks.close()


def changed(variant: ToyVariant, travelling: bytes, **update: object) -> ToyVariant:
    described = ObjectDescriptor.describe(travelling, encoding=variant.manifest.object.encoding, block_bytes=1024)
    return ToyVariant(variant.manifest.model_copy(update={"object": described, **update}), travelling)


def laid_out(variant: ToyVariant, folder: Path) -> tuple[Path, Path, Path]:
    paths = folder / "data", folder / "manifest.json", folder / "variants" / "v"
    paths[0].write_bytes(variant.travelling)
    paths[1].write_bytes(variant.text)
    return paths


def test_unpack_installs_a_variant_whole_and_once(tmp_path: Path) -> None:
    paths = laid_out(make_variant(), tmp_path)
    unpack(*paths)
    unpack(*paths)
    assert sorted(p.name for p in paths[2].iterdir()) == ["manifest.json", "model"]


def test_unpack_beside_another_that_a_killed_supervisor_left_installs_one_whole_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = laid_out(make_variant(), tmp_path)
    write = unpack_module._write_files

    def other_one_meanwhile(*arguments: Any) -> None:  # noqa: ANN401  passed on as they are
        write(*arguments)
        monkeypatch.setattr(unpack_module, "_write_files", write)
        monkeypatch.setattr(os, "getpid", lambda: 1)
        unpack(*paths)

    monkeypatch.setattr(unpack_module, "_write_files", other_one_meanwhile)
    unpack(*paths)
    assert sorted(p.name for p in paths[2].iterdir()) == ["manifest.json", "model"]
    assert [p.name for p in paths[2].parent.iterdir()] == ["v"]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["models", "reports"])
def test_socket_lets_the_agents_group_connect_whatever_the_umask(tmp_path: Path, kind: socket.SocketKind) -> None:
    before = os.umask(0o022)
    try:
        with listen_unix(tmp_path / "x.sock", kind=kind):
            assert (tmp_path / "x.sock").stat().st_mode & 0o777 == 0o660
    finally:
        os.umask(before)


def bomb() -> ToyVariant:
    return changed(make_variant(), zstandard.compress(bytes(200 << 20)))


def truncated() -> ToyVariant:
    return changed(make_variant(), make_variant().travelling[:-200])


def other_content() -> ToyVariant:
    variant = make_variant()
    size = variant.manifest.payload_bytes
    return changed(variant, zstandard.compress(bytes(size)))


def wrong_payload_hash() -> ToyVariant:
    variant = make_variant()
    return changed(variant, variant.travelling, payload_sha256="0" * 64)


def trailing_bytes() -> ToyVariant:
    variant = make_variant()
    wrong = variant.manifest.object.model_copy(update={"sha256": "0" * 64})
    return ToyVariant(variant.manifest.model_copy(update={"object": wrong}), variant.travelling + b"more")


@pytest.mark.parametrize(
    ("variant", "error"),
    [
        (bomb(), EdgeAgentError),
        (truncated(), EdgeAgentError),
        (changed(make_variant(), b"not zstd at all"), CorruptObjectError),
        (other_content(), DigestMismatchError),
        (wrong_payload_hash(), DigestMismatchError),
        (trailing_bytes(), EdgeAgentError),
        (changed(make_variant(), zstandard.compress(b"short")), PayloadSizeError),
    ],
    ids=["bomb", "truncated", "no-zstd", "other-content", "payload-hash", "object-hash", "short"],
)
def test_unpack_of_an_object_that_is_not_its_manifests_leaves_nothing(
    tmp_path: Path, variant: ToyVariant, error: type[Exception]
) -> None:
    paths = laid_out(variant, tmp_path)
    with pytest.raises(error):
        unpack(*paths)
    assert not list((tmp_path / "variants").iterdir())


def test_unpack_process_needs_little_memory_for_a_bomb(tmp_path: Path) -> None:
    paths = [str(path) for path in laid_out(bomb(), tmp_path)]
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20)); "
    code += "from edge_agent.supervisor.unpack import main; sys.exit(main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert '"digest_mismatch"' in result.stdout


def test_variant_folders_forget_what_a_crash_left_half_done(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    folders = VariantFolders(layout)
    variant = make_variant()
    data, manifest, _ = laid_out(variant, tmp_path)
    unpack(data, manifest, layout.variant_dir(variant.manifest_sha256))
    (tmp_path / "variants" / ".new-half").mkdir()
    broken = layout.variant_dir("0" * 64)
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    assert list(folders.installed()) == [variant.manifest_sha256]
    assert [p.name for p in (tmp_path / "variants").iterdir()] == [variant.manifest_sha256]
    folders.collect(keep_manifests=[], keep_objects=[])
    assert not list((tmp_path / "variants").iterdir())


def test_identity_encoding_is_unpacked_too(tmp_path: Path) -> None:
    variant = make_variant()
    content = zstandard.decompress(variant.travelling)
    plain = ToyVariant(
        VariantManifest.model_validate(
            variant.manifest.model_dump()
            | {"object": ObjectDescriptor.describe(content, encoding=Encoding.IDENTITY).model_dump()}
        ),
        content,
    )
    paths = laid_out(plain, tmp_path)
    unpack(*paths)
    assert hashlib.sha256((paths[2] / "model").read_bytes()).hexdigest() == variant.manifest.model_file.sha256


def test_block_fetch_without_answers_asks_less_and_less_often() -> None:
    fetch = BlockFetch(now_s=0.0, listen_s=2.0, quiet_s=1.0, answer_s=10.0, chance=lambda: 0.5)
    waits, now_s = [], 0.0
    for _ in range(10):
        waits.append(fetch.ask_at_s - now_s)
        now_s = fetch.ask_at_s
        assert fetch.due(now_s)
        fetch.asked(now_s)
    assert waits[0] < 2
    assert waits[1:] == sorted(waits[1:])
    assert waits[-1] <= 130


@pytest.mark.parametrize(
    ("status", "failed"),
    [("ok", False), ("slow_down", False), ("unavailable", False), ("not_found", True), ("gone", True)],
)
def test_block_fetch_answered_waits_or_fails(status: str, failed: bool) -> None:  # noqa: FBT001  a parameter of the test
    fetch = BlockFetch(now_s=0.0, listen_s=0.0, quiet_s=1.0, answer_s=10.0, chance=lambda: 0.0)
    fetch.asked(0.0)
    fetch.answered(1.0, Reply.model_validate({"kind": "blocks", "status": ReplyStatus(status), "retry_after_s": 3.0}))
    assert (fetch.failure is not None) == failed
    assert failed or fetch.ask_at_s >= 4.0


def test_runs_of_blocks_are_one_range_each() -> None:
    assert list(runs([])) == []
    assert list(runs([0])) == [(0, 0)]
    assert list(runs([0, 1, 2, 5, 7, 8])) == [(0, 2), (5, 5), (7, 8)]


@pytest.mark.parametrize(
    ("text", "throttled"),
    [("throttled=0x0", False), ("throttled=0x50005", True), ("50000", False), ("4", True), ("", None), ("x", None)],
)
def test_throttled_tells_what_holds_now(text: str, throttled: bool | None) -> None:  # noqa: FBT001  a parameter of the test
    assert parse_throttled(text) is throttled


def test_memory_available_is_read_or_unknown() -> None:
    assert parse_memory_available_bytes("MemTotal: 9 kB\nMemAvailable:  2048 kB\n") == 2048 * 1024
    assert parse_memory_available_bytes("MemAvailable:\n") is None
