"""`operator`, `login`, `logout`, `whoami` and `audit` against a real registry."""

import json
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from server.cli.app import app
from server.database import tables

Registry = Any
Run = Callable[..., Result]


@pytest.fixture
def registry(start_registry: Callable[..., Registry]) -> Registry:
    """An API of this test alone: its log is short."""
    return start_registry()


@pytest.fixture
def run(registry: Registry) -> Run:
    """Run a command as the admin of the machine."""

    def invoke(*arguments: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments), env=registry.environment)
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


@pytest.fixture
def elsewhere(registry: Registry, tmp_path: Path) -> Run:
    """Run a command on a machine where no registry runs, as a user who has nothing but what login keeps."""
    environment = {
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "SHOAL_DATA_DIR": str(tmp_path / "none"),
        **dict.fromkeys(("SHOAL_REGISTRY", "SHOAL_TOKEN")),
    }

    def invoke(*arguments: str, stdin: str | None = None, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments), env=environment, input=stdin)
        assert result.exit_code == exit_code, result.output
        return result

    assert registry.url
    return invoke


def kept_in(tmp_path: Path) -> Path:
    return tmp_path / "config" / "shoal" / "registries.json"


def test_operator_is_made_logs_in_works_and_logs_out(
    registry: Registry, run: Run, elsewhere: Run, tmp_path: Path
) -> None:
    token, *rest = run("operator", "add", "ada", "--role", "operator", "--valid", "30d").stdout.splitlines()
    assert token.startswith("shoal-op-")
    assert rest[-1].strip() == f"edge-registry login {registry.url}"
    assert "No registry is known here" in elsewhere("device", "list", exit_code=1).stderr
    needs = elsewhere("device", "list", "--registry", registry.url, exit_code=1)
    assert needs.stderr == "edge-registry: This needs a login: log in with `edge-registry login URL`.\n"
    done = elsewhere("login", f"{registry.url}/", stdin=f"{token}\n")
    assert f"logged in to {registry.url} as ada, operator, until" in done.stdout
    assert token not in done.output
    assert stat.S_IMODE(kept_in(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(kept_in(tmp_path).parent.stat().st_mode) == 0o700
    assert json.loads(elsewhere("whoami", "--json").stdout)["who"] == "ada"
    assert "no tokens" in elsewhere("token", "list").stdout
    refused = elsewhere("operator", "list", exit_code=1)
    assert refused.stderr == (
        "edge-registry: ada is an operator, and list_operators wants an admin: ask an admin of this registry.\n"
    )
    assert elsewhere("logout").stdout == f"logged out of {registry.url}\n"
    assert token not in kept_in(tmp_path).read_text()
    elsewhere("whoami", "--registry", registry.url, exit_code=1)
    assert "You are logged in nowhere" in elsewhere("logout", exit_code=1).stderr


def test_token_that_opens_nothing_is_not_kept(registry: Registry, elsewhere: Run, tmp_path: Path) -> None:
    for stdin in ("shoal-op-wrong\n", "two words\n", "\n", "", "ümlaut\n"):
        result = CliRunner().invoke(app, ["login", registry.url], env={"XDG_CONFIG_HOME": str(tmp_path)}, input=stdin)
        assert result.exit_code in {1, 2}
        assert result.stderr.startswith("edge-registry: ")
        assert result.stderr.count("\n") == 1
    assert "has no OpenID provider" in elsewhere("login", registry.url, "--oidc", exit_code=1).stderr
    assert "No registry answers" in elsewhere("login", "http://127.0.0.1:9", stdin="x\n", exit_code=1).stderr
    assert not kept_in(tmp_path).exists()


def test_token_is_asked_for_on_a_terminal_without_being_shown(registry: Registry, tmp_path: Path) -> None:
    main, terminal = pty.openpty()
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "SHOAL_DATA_DIR": str(tmp_path / "none")}
    code = "from server.cli.app import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "login", registry.url],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
        start_new_session=True,
    )
    os.close(terminal)
    said = b""
    while b"token: " not in said:
        said += os.read(main, 1024)
    arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    os.write(main, f"{registry.token}\n".encode())
    while b"kept in" not in said:
        said += os.read(main, 1024)
    assert process.wait(20) == 0
    os.close(main)
    assert registry.token.encode() not in said + arguments
    assert b"logged in to" in said


def test_credentials_that_others_may_read_or_that_are_damaged_are_refused(
    registry: Registry, elsewhere: Run, tmp_path: Path
) -> None:
    elsewhere("login", registry.url, stdin=f"{registry.token}\n")
    kept_in(tmp_path).chmod(0o640)
    assert f"chmod 600 {kept_in(tmp_path)}" in elsewhere("whoami", exit_code=1).stderr
    kept_in(tmp_path).chmod(0o600)
    kept_in(tmp_path).write_text('{"registries": 7}')
    assert "is damaged: remove it, and log in again" in elsewhere("whoami", exit_code=1).stderr


def test_operators_are_listed_rotated_and_revoked(registry: Registry, run: Run, elsewhere: Run) -> None:
    first = json.loads(run("operator", "add", "bob", "--role", "viewer", "--json").stdout)["token"]
    elsewhere("login", registry.url, stdin=f"{first}\n")
    second = run("operator", "rotate", "bob").stdout.splitlines()[0]
    assert "was replaced by a newer one" in elsewhere("whoami", exit_code=1).stderr
    elsewhere("login", registry.url, stdin=f"{second}\n")
    listed = run("operator", "list").stdout
    assert "bob" in listed
    assert "viewer" in listed
    assert second not in listed
    assert run("operator", "revoke", "bob").stdout == "the token of bob is revoked\n"
    assert "was revoked: ask an admin" in elsewhere("whoami", exit_code=1).stderr
    assert "is revoked" in run("operator", "rotate", "bob", exit_code=1).stderr
    assert "does not exist" in run("operator", "revoke", "nobody", exit_code=1).stderr
    assert "is not one of" in run("operator", "add", "eve", "--role", "root", exit_code=2).stderr
    assert "valid_s" in run("operator", "add", "eve", "--role", "admin", "--valid", "900d", exit_code=1).stderr


def test_audit_tells_who_did_what_and_verifies(registry: Registry, run: Run) -> None:
    run("profile", "add", "pi-4")
    run("token", "create", "--label", "site=berlin")
    run("device", "retire", "nobody", exit_code=1)
    table = run("audit").stdout
    for words in (
        "operator.add",
        "profile.add",
        "profile/pi-4",
        "token.create",
        '"site":"berlin"',
        "retire_device refused",
    ):
        assert words in table
    entries = json.loads(run("audit", "--json", "--since", "1h").stdout)
    assert [entry["sequence"] for entry in entries] == list(range(1, len(entries) + 1))
    assert json.loads(run("audit", "--json", "--limit", "1").stdout) == entries[-1:]
    whole = run("audit", "--verify").stdout
    assert f"is whole: {len(entries)} rows" in whole
    head = whole.split()[-1]
    assert head == f"{entries[-1]['sequence']}:{entries[-1]['sha256']}"
    run("profile", "add", "pi-5")
    run("audit", "--verify", "--head", head)
    other = f"{entries[-1]['sequence']}:{'0' * 64}"
    assert "does not hold the row that was noted" in run("audit", "--head", other, exit_code=1).stderr
    assert "--head is NUMBER:SHA256" in run("audit", "--head", "7", exit_code=2).stderr
    # whoever can write the database drops the guard, and changes a row in the middle
    with registry.catalogue.write() as connection:
        for word in ("update", "delete"):
            connection.execute(sa.text(f"DROP TRIGGER audit_log_keeps_{word}"))
        changed = sa.update(tables.audit_log).where(tables.audit_log.c.sequence == 2).values(who="eve")
        connection.execute(changed)
    broken = run("audit", "--verify", exit_code=1)
    assert broken.stderr == (
        "edge-registry: The audit log is broken at row 2: its hash is not that of what it says: it was changed.\n"
    )
    document = json.loads(run("audit", "--verify", "--json", exit_code=1).stdout)
    assert document["broken"]["sequence"] == 2


def test_chain_longer_than_a_page_is_read_to_its_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.audit.trail.MAX_LISTED", 3)
    for number in range(8):
        run("token", "create", "--label", f"n={number}")
    rows = len(json.loads(run("audit", "--json", "--since", "1h").stdout))
    assert rows == 9
    assert f"is whole: {rows} rows" in run("audit", "--verify").stdout
