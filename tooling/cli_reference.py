"""Write the pages of `docs/` that repeat what the code says: commands, settings, states. `--check` only compares.

    python tooling/cli_reference.py [--check]

Structured data are read, not the text of `--help`: argparse words it differently from one Python to the next.
"""

# ruff: noqa: SLF001  argparse offers no other way to its arguments
from __future__ import annotations

import argparse
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer.main
from pydantic_core import PydanticUndefined

from edge_agent.cli import _parser as agent_parser
from edge_agent.protocol.states import FINAL_STATES, TRANSITIONS
from edge_agent.settings import AgentSettings
from server.cli.app import app as registry_app
from server.settings import ENVIRONMENT_PREFIX, RegistrySettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

DOCS = Path(__file__).resolve().parents[1] / "docs"
GENERATED = "<!-- Written by tooling/cli_reference.py from the code. Change the code, then run it. -->"
BEGIN, END = "<!-- states: begin (tooling/cli_reference.py) -->", "<!-- states: end -->"

COMMON = {"registry", "as_json", "help", "install_completion", "show_completion"}  # said once, at the top
# What `--json` prints; names in capitals' case are documents of the HTTP API.
JSON_DOCUMENTS = {
    "telemetry": "a list of `TelemetryRow`",
    "gc": "a `SweepReport`",
    "backup": "the fields of `backup.json` but the lists of files, and the `folder`",
    "restore": "the fields of `backup.json` but the lists of files, and the `folder`",
    "status": "a `Health`, and the `url` that was asked",
    "profile add": "a list of `DeviceProfile`",
    "profile list": "a list of `DeviceProfile`",
    "profile show": "a `DeviceProfile`",
    "model push": "a `PushAccepted`, and under `jobs` each `Job` that was waited for",
    "model list": "a list of `ModelVersion`",
    "model retire": "a list of `ModelVersion`: all that are meant",
    "model show": "a list of `ModelVersion`; with `@VERSION` one",
    "recipe list": "a list of `ReadyRecipe`",
    "recipe show": "a `ReadyRecipe`",
    "recipe steps": "a list of `StepDescription`",
    "variant build": "a list of `Job`",
    "variant list": "a list of `Variant`",
    "variant show": "a list of `Variant`",
    "variant report": "a `Report`, and the `folder` of its files; with `--no-wait` a `Job`",
    "variant choices": "a list of `Choice`",
    "compress": "a `Search`; with `--no-wait` a `Job`",
    "job cancel": "a `Job`",
    "job list": "a list of `Job`",
    "job show": "a `Job`",
    "token create": "a `Token`",
    "token list": "a list of `TokenView`",
    "token revoke": '`{"token_id": ..., "revoked": true}`',
    "device list": "a list of `Device`",
    "device show": "a `Device`",
    "device label": "a `Device`",
    "device logs": "a `LogTail`; with `--follow` a `LogLine` a line",
    "device diagnose": '`{"file": ..., "size_bytes": ..., "answered": ...}`',
    "device retire": '`{"device_id": ..., "retired": true}`',
    "rollout start": "a `Rollout`; with `--watch` as it ended; with `--dry-run` a `RolloutForecast`",
    "rollout status": "a `Rollout`; with `--watch` as it ended",
    "rollout explain": "a list of `DecisionView`",
    "webhook status": "a `WebhookStatus`",
    "rollout list": "a list of `Rollout`, without their devices",
    "rollout pause": "a `Rollout`, as it was when the word was said",
    "rollout resume": "a `Rollout`, as it was when the word was said",
    "rollout abort": "a `Rollout`, as it was when the word was said",
    "rollout rollback": "a `Rollout`, as it was when the word was said",
    "rollout retry": "a `Rollout`, as it was when the word was said",
    "rollout activate": "a `Rollout`, as it was when the word was said",
    "rollout approve": "a `Rollout`, as it was when the word was said",
}
# What the models themselves do not describe.
REGISTRY_MEANINGS = {
    "s3_bucket": "bucket; it is created if it does not exist",
    "s3_access_key": "needed with `s3_endpoint`",
    "s3_secret_key": "needed with `s3_endpoint`",
    "s3_region": "region that requests are signed for",
    "job_timeout_s": "a job that runs longer is stopped and fails",
    "presign_expiry_s": "how long an HTTPS download address is valid",
    "max_upload_bytes": "largest body of one push",
}
AGENT_MEANINGS = {
    "data_dir": "everything the agent keeps; flag `--data-dir`",
    "listen": "where apps infer: `HOST:PORT`, or `unix` for the models' Unix sockets only; flag `--listen`",
    "transport": "how objects travel: `mqtt` or `https`; flag `--transport`",
    "max_download_rate_bytes_s": "of the network that models may take; none: all; flag `--max-download-rate`",
    "metered": "every byte costs: nothing is received that was not asked for; flag `--metered`",
    "storage_budget_bytes": "for models; none: the profile's, else half of what is free; flag `--storage-budget`",
    "memory_budget_bytes": "for runners; none: what the machine has left; flag `--memory-budget`",
    "spool_limit_bytes": "telemetry kept while nobody acknowledges it; then the oldest goes",
    "spool_limit_age_s": "older telemetry is dropped",
    "log_limit_bytes": "of the agent's own log on the disk; then the oldest lines go",
    "keepalive_s": "MQTT keep-alive",
    "will_delay_s": "the broker waits this long before it publishes the last will",
    "session_expiry_s": "the broker keeps the session this long; longer than the will delay",
    "reconnect_first_s": "first pause before connecting again; doubles",
    "reconnect_cap_s": "longest pause before connecting again",
    "ask_interval_s": "silence after which the desired state is asked for again",
    "first_pass_wait_s": "how long at most to listen for a pass that serves everyone before asking",
    "quiet_s": "a pass is over when no block came for so long; then what is missing is asked for",
    "answer_s": "a question without an answer is asked again after this",
    "ack_wait_s": "telemetry that is not acknowledged is sent again after this",
    "runner_start_s": "to load a file and prove it",
    "runner_silence_s": "a runner without a beat for so long is hung",
    "invoke_limit_s": "a single invocation of the interpreter (not a whole batch) that takes longer is hung",
    "drain_s": "an old runner may take this long to answer what it has accepted",
    "runner_command": "command of another Python's runner, for example one with tflite-runtime; empty: this Python",
    "front_command": "the same for the front process that serves several models",
    "retry_first_s": "first pause before a failed deployment is tried again; doubles",
    "restart_first_s": "first pause before a runner that ended is started again; doubles",
}

CLI_PAGE = """\
# Commands

{generated}

Two programs. `edge-registry up` runs a registry, `backup` and `restore` work on its folder and databases; every other
`edge-registry` command is a client of one over HTTP. `edge-agent` runs on a device.

Exit codes: 0 done; 1 refused or failed, with one sentence on standard error; 2 the command line or a setting is wrong.
`edge-registry up` also ends with 3 (no Mosquitto), and `up`, `backup` and `restore` with 4 (another `up` holds the
data folder). More in [troubleshooting](../how-to/troubleshooting.md).

## `edge-registry`

Every client takes `--registry URL` (or the environment variable `SHOAL_REGISTRY`). Without it, the registry
of this machine is meant: the one whose `up` runs, or last ran, in `SHOAL_DATA_DIR` or in the default folder. Every
command but `up` takes `--json` too: one JSON document on standard output instead of tables for people; sentences
and progress stay on standard error, and the exit code is the same. The documents are those of the HTTP API: a running
registry describes each field at `/docs` and in `/openapi.json`.

`edge-registry --version` says which version is installed.

Shell completion of commands and options: `edge-registry --install-completion` adds it to the settings of the shell that
you are in (bash, zsh, fish), and a new shell has it; `edge-registry --show-completion` only prints the script.

{registry}

## `edge-agent`

The agent's files are in `--data-dir`, else in `SHOAL_AGENT_DIR`, else in `/var/lib/shoal-agent` for root and in
`~/.local/state/shoal-agent` for others. Commands that talk to a running agent need the same folder.

{agent}
"""
SETTINGS_PAGE = """\
# Settings

{generated}

Units end names: `_s` seconds, `_bytes` bytes.

## Registry

Defaults, then the file, then the environment, then flags; the later wins. The file is `registry.toml` in the data
folder, or the one that `--config` or `SHOAL_CONFIG` names. An unknown name in the file is refused. The data folder is
`--data-dir`, `SHOAL_DATA_DIR`, or `~/.local/share/shoal/registry`.

{registry}

`runtime_pythons` is a table in the file (`[runtime_pythons]` with `tflite = "/path/python"`) and JSON in the
environment (`{{"tflite": "/path/python"}}`). Where both name a runtime, the environment wins. Without a Python for a
runtime, its variants are `unmeasured` and never chosen.

`up` remembers ports and keys in its data folder (`stack.json`, `s3-keys.json`): devices keep the addresses that they
were told when they joined.

## Agent

Seven have flags of their own (`edge-agent start --help`). The others: `edge-agent start ... --set NAME=VALUE`, as often
as needed.

{agent}
"""
METAVARS = {"str": "TEXT", "list": "TEXT", "int": "N", "float": "N", "Path": "PATH"}


def cell(text: object) -> str:
    """Text as a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """A Markdown table."""
    head = list(columns)
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(cell(value) for value in row)} |" for row in rows]


def registry_commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401  typer brings a click of its own
    """Every command below a group, with its full name."""
    for name, command in group.commands.items():
        full = f"{path} {name}"
        if hasattr(command, "commands"):
            yield from registry_commands(command, full)
        else:
            yield full, command


def option_row(option: Any) -> tuple[str, str]:  # noqa: ANN401  as above
    """An option of typer: its flags, and what it means."""
    kind = option.type_descriptor.annotation
    choices = [str(one.value) for one in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []
    given = (
        ""
        if option.is_flag
        else f" {'|'.join(choices) or option.metavar or METAVARS.get(getattr(kind, '__name__', ''), 'TEXT')}"
    )
    needed = " Required." if option.required else ""
    unset = option.default is None or option.default is False or option.default == ""
    value = option.opts[0] if option.default is True else f"{option.default:g}" if kind is float else option.default
    default = "" if unset else f" Default: `{value}`."
    return f"`{', '.join([*option.opts, *option.secondary_opts])}{given}`", f"{option.help or ''}{needed}{default}"


def registry_page() -> Iterator[str]:
    """`edge-registry`."""
    for name, command in registry_commands(typer.main.get_command(registry_app), "edge-registry"):
        arguments = [one for one in command.params if not hasattr(one, "is_flag")]
        options = [one for one in command.params if hasattr(one, "is_flag") and one.name not in COMMON]
        words = [one.metavar or one.name.upper() for one in arguments]
        rows = [(f"`{word}`", one.help) for word, one in zip(words, arguments, strict=True) if one.help]
        yield from ("", f"### `{' '.join([name, *words])}`", "", (command.help or "").strip())
        if rows or options:
            yield from ("", *table(("option", "meaning"), [*rows, *map(option_row, options)]))
        if any(one.name == "as_json" for one in command.params):
            yield from ("", f"`--json`: {JSON_DOCUMENTS[name.removeprefix('edge-registry ')]}.")
        elif name != "edge-registry up":
            raise SystemExit(f"{name} has no --json, and the page says that every command but `up` has it")


def agent_page() -> Iterator[str]:
    """`edge-agent`."""
    parser = agent_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {choice.dest: choice.help for choice in commands._choices_actions}
    for name, command in commands.choices.items():
        actions = [action for action in command._actions if action.dest != "help"]
        words = [f"[{a.metavar}]" if a.nargs == "?" else str(a.metavar) for a in actions if not a.option_strings]
        summary = str(helps[name])
        sentence = f"{summary[:1].upper()}{summary[1:]}."
        yield from ("", f"### `{' '.join(['edge-agent', name, *words])}`", "", sentence)
        rows = []
        for action in actions:
            if not action.option_strings:
                rows.append((f"`{action.metavar}`", action.help or "Name of the model."))
                continue
            given = (
                "" if action.nargs == 0 else f" {action.metavar or '|'.join(action.choices or [action.dest.upper()])}"
            )
            needed = " Required." if action.required else ""
            default = f" Default: `{action.default}`." if isinstance(action.default, str) else ""
            rows.append((f"`{', '.join(action.option_strings)}{given}`", f"{action.help or ''}.{needed}{default}"))
        if rows:
            yield from ("", *table(("option", "meaning"), rows))


def cli_page() -> str:
    """`reference/cli.md`."""
    return CLI_PAGE.format(
        generated=GENERATED, registry="\n".join(registry_page()).strip(), agent="\n".join(agent_page()).strip()
    )


def default_of(field: FieldInfo) -> str:
    """A default as a person would write it."""
    if field.default is PydanticUndefined or field.default is None or field.default in {"", ()}:
        return ""
    value = field.default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{value}`"


def settings_rows(model: type[BaseModel], meanings: dict[str, str], *, prefix: str | None) -> list[list[str]]:
    """A row for each setting."""
    unknown = sorted(set(meanings) - set(model.model_fields))
    if unknown:
        raise SystemExit(f"{model.__name__} has no setting {unknown[0]}: take it out of this script")
    rows = []
    for name, field in model.model_fields.items():
        meaning = field.description or meanings.get(name)
        if meaning is None:
            raise SystemExit(f"{model.__name__}.{name} has no description: give it one, there or in this script")
        variable = [] if prefix is None else [f"`{prefix}{name.upper()}`"]
        rows.append([f"`{name}`", *variable, default_of(field), meaning])
    return rows


def settings_page() -> str:
    """`reference/settings.md`."""
    registry = settings_rows(RegistrySettings, REGISTRY_MEANINGS, prefix=ENVIRONMENT_PREFIX)
    agent = settings_rows(AgentSettings, AGENT_MEANINGS, prefix=None)
    return SETTINGS_PAGE.format(
        generated=GENERATED,
        registry="\n".join(table(("name in the file", "environment", "default", "meaning"), registry)),
        agent="\n".join(table(("name", "default", "meaning"), agent)),
    )


def states_text() -> str:
    """The table of states in `architecture.md`."""
    rows = [
        (
            f"`{state}`",
            ", ".join(f"`{after}`" for after in TRANSITIONS if after in TRANSITIONS[state]),
            "yes" if state in FINAL_STATES else "",
        )
        for state in TRANSITIONS
    ]
    return "\n".join([BEGIN, "", *table(("state", "may be followed by", "rests here"), rows), "", END])


def with_states(page: str) -> str:
    """`architecture.md` with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"docs/architecture.md lacks the lines {BEGIN} and {END}")
    return before + states_text() + after


def main() -> int:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if a page is not in step; write nothing")
    check = parser.parse_args().check
    architecture = DOCS / "architecture.md"
    pages = {
        DOCS / "reference" / "cli.md": cli_page(),
        DOCS / "reference" / "settings.md": settings_page(),
        architecture: with_states(architecture.read_text(encoding="utf-8")),
    }
    late = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in late:
        sys.stdout.write(f"{path.relative_to(DOCS.parent)} {'is not in step with the code' if check else 'written'}\n")
        if not check:
            path.write_text(pages[path], encoding="utf-8")
    return 1 if check and late else 0


if __name__ == "__main__":
    raise SystemExit(main())
