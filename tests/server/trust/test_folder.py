"""The folder of keys: made once, for its owner alone, and what is due is issued anew."""

import stat
from pathlib import Path

import pytest
from cryptography import x509

from server.trust.authority import DAY_S, names_of
from server.trust.errors import TrustError
from server.trust.folder import TrustFolder
from server.trust.names import Role

NOW = 1_800_000_000.0
HOSTS = ("localhost", "127.0.0.1", "registry.example")


@pytest.fixture
def folder(tmp_path: Path) -> TrustFolder:
    made = TrustFolder(tmp_path / "trust")
    made.make("test", now=NOW)
    made.keep_current(host_names=HOSTS, now=NOW)
    return made


def test_every_file_is_readable_by_its_owner_alone(folder: TrustFolder) -> None:
    for path in [folder.paths.folder, *folder.paths.folder.rglob("*")]:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_authority_is_made_once(folder: TrustFolder) -> None:
    before = folder.root_fingerprint()
    with pytest.raises(TrustError, match="not made anew"):
        folder.make("test", now=NOW)
    assert folder.root_fingerprint() == before


def test_root_key_elsewhere_is_not_in_the_registry_and_issuing_goes_on(tmp_path: Path) -> None:
    folder = TrustFolder(tmp_path / "trust")
    folder.make("test", now=NOW, root_elsewhere=tmp_path / "safe")
    assert stat.S_IMODE((tmp_path / "safe" / "root.key").stat().st_mode) == 0o600
    assert not folder.paths.root_key.exists()
    assert folder.keep_current(host_names=HOSTS, now=NOW)
    assert folder.paths.server.exists()


def test_root_key_of_another_registry_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "safe").mkdir()
    (tmp_path / "safe" / "root.key").write_text("other")
    with pytest.raises(TrustError, match="another registry"):
        TrustFolder(tmp_path / "trust").make("test", now=NOW, root_elsewhere=tmp_path / "safe")
    assert (tmp_path / "safe" / "root.key").read_text() == "other"


@pytest.mark.parametrize(
    ("hosts", "days", "issued"),
    [
        pytest.param(HOSTS, 0, False, id="nothing-changed"),
        pytest.param(HOSTS, 200, False, id="in-its-first-two-thirds"),
        pytest.param(HOSTS, 250, True, id="in-its-last-third"),
        pytest.param(("localhost",), 0, True, id="other-names"),
    ],
)
def test_what_is_due_is_issued_anew(folder: TrustFolder, hosts: tuple[str, ...], days: float, *, issued: bool) -> None:
    before = folder.paths.server.read_bytes()
    assert folder.keep_current(host_names=hosts, now=NOW + days * DAY_S) is issued
    assert (folder.paths.server.read_bytes() != before) is issued
    assert names_of(x509.load_pem_x509_certificate(folder.paths.server.read_bytes())) == set(hosts)


def test_key_that_others_can_read_is_not_used(folder: TrustFolder) -> None:
    folder.paths.intermediate_key.chmod(0o640)
    with pytest.raises(TrustError, match="Others can read"):
        folder.authority()


@pytest.mark.parametrize("name", ["intermediate.key", "intermediate.crt", "root.crt"])
@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_missing_or_damaged_authority_is_named(folder: TrustFolder, name: str, content: bytes | None) -> None:
    path = folder.paths.folder / name
    path.unlink()
    if content is not None:
        path.touch(mode=0o600)
        path.write_bytes(content)
    with pytest.raises(TrustError, match=name):
        folder.authority()


def test_lists_are_written_anew_only_where_they_say_something_else(folder: TrustFolder) -> None:
    def inodes() -> tuple[int, int]:
        return folder.paths.revoked.stat().st_ino, folder.paths.access.stat().st_ino

    first = inodes()
    folder.tell_broker({}, [], now=NOW + 1)
    assert inodes() == first
    folder.tell_broker({"ab12": NOW}, ["dev-1"], now=NOW + 2)
    assert inodes()[0] != first[0]
    assert inodes()[1] != first[1]
    listed = x509.load_pem_x509_crl(folder.paths.revoked.read_bytes())
    assert [one.serial_number for one in listed] == [0xAB12]
    assert "user dev-1\ntopic deny #\n" in folder.paths.access.read_text()
    assert listed.is_signature_valid(folder.authority().intermediate.key.public_key())


def test_another_process_of_a_role_gets_its_own_name_and_keeps_who_is_denied(folder: TrustFolder) -> None:
    folder.tell_broker({"ab12": NOW}, ["dev-1"], now=NOW)
    folder.keep_service(Role.INGEST, "two", now=NOW)
    text = folder.paths.access.read_text()
    assert "user registry:ingest\n" in text
    assert "user registry:ingest:two\n" in text
    assert "user dev-1\ntopic deny #\n" in text
    with pytest.raises(ValueError, match="instance"):
        folder.keep_service(Role.INGEST, "../two", now=NOW)
