"""Schemathesis over the whole OpenAPI document, all its checks on, against a real API: as an admin, and as nobody."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

Registry = Any
Fuzz = Callable[..., str]

# What is sent fits the schema, and is still refused by a rule that it can't hold: files, names given twice, growing
# waves, selectors, time zones, budgets.
RULES_BEYOND = (
    "add_profile",
    "push_version",
    "build_variants",
    "start_search",
    "start_report",
    "create_token",
    "join",
    "list_devices",
    "label_device",
    "start_rollout",
    "forecast_rollout",
    "get_telemetry",
)


@pytest.fixture
def fuzz(registry: Registry, tmp_path: Path) -> Fuzz:
    """Run it; what it says."""
    document = tmp_path / "openapi.json"
    document.write_text(httpx.get(f"{registry.url}/openapi.json", headers=registry.login, timeout=20).text)

    def run(*options: str, settings: str = "") -> str:
        (tmp_path / "schemathesis.toml").write_text(settings)
        command = [sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", registry.url]
        done = subprocess.run(
            [*command, "--checks", "all", "--no-color", "--seed", "7", "--continue-on-failure", *options],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=3500,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
        return done.stdout

    return run


def settings_for(header: str | None) -> str:
    """Who asks, and where rules go beyond what a JSON schema can say."""
    lines = [] if header is None else [f'headers = {{ Authorization = "{header}" }}']
    for operation in RULES_BEYOND:
        lines += ["[[operations]]", f'include-operation-id = "{operation}"']
        accepted = ["2xx", "401", "403", "404", "409", "422", "429", "503"]
        lines += [f"checks.positive_data_acceptance.expected-statuses = {json.dumps(accepted)}"]
    return "\n".join(lines) + "\n"


@pytest.mark.timeout(900)
def test_document_holds_for_an_admin(fuzz: Fuzz, registry: Registry) -> None:
    settings = settings_for(registry.login["Authorization"])
    fuzz("--phases", "coverage,fuzzing", "--max-examples", "2", settings=settings)


@pytest.mark.timeout(900)
def test_document_holds_for_a_stranger(fuzz: Fuzz) -> None:
    fuzz("--phases", "coverage,fuzzing", "--max-examples", "2", settings=settings_for(None))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_document_holds_for_long(fuzz: Fuzz, registry: Registry) -> None:
    settings = settings_for(registry.login["Authorization"])
    fuzz("--phases", "examples,coverage,fuzzing", "--max-examples", "100", settings=settings)
