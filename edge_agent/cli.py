"""`edge-agent`: flags in, one sentence out when something is wrong. What is heavy is imported inside the command."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent import __version__
from edge_agent.errors import EdgeAgentError
from edge_agent.protocol.refusal import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USAGE_ERROR, FAILURE = 2, 1


class UsageError(EdgeAgentError):
    """The command line says what can't be."""

    code = "usage"


class _Help(argparse.HelpFormatter):
    """As argparse's, but `os` tells the width: `shutil` brings every compression along, 0.5 MB of each supervisor."""

    def __init__(self, prog: str) -> None:
        try:
            columns = int(os.environ.get("COLUMNS") or os.get_terminal_size().columns)
        except (OSError, ValueError):
            columns = 80
        super().__init__(prog, width=max(20, columns - 2))


class _Command(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:  # noqa: ANN401  argparse's own options
        super().__init__(formatter_class=_Help, **options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = _parser().parse_args(arguments)
    # looking for pydantic plugins reads the metadata of every installed package: time and memory for nothing
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except UsageError as exc:
        sys.stderr.write(f"edge-agent: {exc}\n")
        return USAGE_ERROR
    except EdgeAgentError as exc:
        sys.stderr.write(f"edge-agent: {exc}\n")
        return FAILURE
    except BrokenPipeError:
        return FAILURE
    except (PermissionError, FileExistsError, NotADirectoryError) as exc:
        sys.stderr.write(f"edge-agent: {exc.filename}: {exc.strerror}: give another --data-dir, or run as its owner\n")
        return FAILURE
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    description = "Run models on this device as a registry wants it."
    parser = argparse.ArgumentParser(prog="edge-agent", description=description, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"edge-agent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Command)

    _add_enroll(commands)
    start = commands.add_parser("start", help="run until stopped; the device is enrolled by then")
    _data_dir(start)
    start.add_argument("--listen", default="127.0.0.1:8080", metavar="HOST:PORT|unix", help="where apps infer")
    start.add_argument("--transport", choices=("mqtt", "https"), default="mqtt", help="how models are fetched")
    start.add_argument("--max-download-rate", type=_size, metavar="BYTES", help="a second, such as 200K")
    start.add_argument("--metered", action="store_true", help="every byte costs: receive nothing unasked")
    start.add_argument("--storage-budget", type=_size, metavar="BYTES", help="for models, such as 200M")
    start.add_argument("--memory-budget", type=_size, metavar="BYTES", help="for runners, such as 256M")
    start.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting")
    start.set_defaults(command=_start)

    status = commands.add_parser("status", help="what the agent here is doing")
    _data_dir(status)
    _json(status)
    status.set_defaults(command=_status)

    infer = commands.add_parser("infer", help="run a model of the agent here")
    infer.add_argument("model", metavar="MODEL")
    infer.add_argument(
        "inputs",
        metavar="INPUTS",
        help='by input name: an .npz or JSON file, - for standard input, or the JSON itself: {"x": [[1, 2]]}',
    )
    _data_dir(infer)
    _json(infer)
    infer.set_defaults(command=_infer)

    _add_defer(commands)
    _add_diagnose(commands)
    probe = commands.add_parser("probe", help="write a profile of this machine")
    probe.add_argument("-o", "--output", type=Path, metavar="FILE", help="by default to standard output")
    probe.add_argument("--name", help="the profile's name")
    _data_dir(probe)
    probe.set_defaults(command=_probe)

    profiles = commands.add_parser("profiles", help="the profiles that come with Shoal")
    _json(profiles)
    profiles.set_defaults(command=_profiles)
    return parser


def _add_enroll(commands: argparse._SubParsersAction[_Command]) -> None:
    enroll = commands.add_parser("enroll", help="become a device of a registry, with a token of it")
    enroll.add_argument("registry", metavar="URL", help="the registry's address")
    enroll.add_argument("--token", help="what edge-registry token create gave (or SHOAL_ENROLL_TOKEN)")
    enroll.add_argument("--token-file", type=Path, metavar="FILE", help="the token, where no process list shows it")
    enroll.add_argument("--device-id", metavar="ID", help="the name to have; by default the registry gives one")
    enroll.add_argument("--profile", metavar="NAME", help="the device's kind, as the registry knows it")
    enroll.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="may be given several times")
    enroll.add_argument(
        "--wait", default="1h", metavar="TIME", help="for an operator, where the token needs one: 90s, 1h"
    )
    enroll.add_argument("--again", action="store_true", help="give up the identity that is here")
    _data_dir(enroll)
    _json(enroll)
    enroll.set_defaults(command=_enroll)


def _add_defer(commands: argparse._SubParsersAction[_Command]) -> None:
    defer = commands.add_parser("defer", help="swap no model for a while, as long as the rollout allows")
    defer.add_argument("--for", dest="for_", metavar="TIME", help="such as 90s, 10m or 1h; a day at most")
    defer.add_argument("--reason", default="edge-agent defer", metavar="TEXT", help="operators see it")
    defer.add_argument("--model", metavar="MODEL", help="by default every model here")
    defer.add_argument("--token", metavar="TOKEN", help="of a deferral that shall last longer")
    defer.add_argument("--end", metavar="TOKEN", help="end a deferral before its time")
    _data_dir(defer)
    _json(defer)
    defer.set_defaults(command=_defer)


def _add_diagnose(commands: argparse._SubParsersAction[_Command]) -> None:
    diagnose = commands.add_parser("diagnose", help="write all that helps to find a fault here into one file")
    diagnose.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="a .tar.gz; no keys in it")
    diagnose.add_argument("--lines", type=_count, default=2000, metavar="N", help="of the log at most")
    _data_dir(diagnose)
    _json(diagnose)
    diagnose.set_defaults(command=_diagnose)


def _data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="the agent's files (or SHOAL_AGENT_DIR)")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output, for programs")


def _start(options: argparse.Namespace) -> int:
    from edge_agent import late  # noqa: PLC0415  --help needs none of this

    late.postpone(*late.UNUSED_WHEN_IDLE)  # before anything imports them

    from pydantic import ValidationError  # noqa: PLC0415

    from edge_agent.protocol.base import build_late  # noqa: PLC0415

    build_late()

    from edge_agent.layout import default_data_dir  # noqa: PLC0415
    from edge_agent.settings import AgentSettings  # noqa: PLC0415
    from edge_agent.supervisor.start import start  # noqa: PLC0415

    values: dict[str, object] = dict(_pair(text, "--set") for text in options.set)
    values |= {
        "data_dir": (options.data_dir or default_data_dir()).absolute(),
        "listen": options.listen,
        "transport": options.transport,
        "max_download_rate_bytes_s": options.max_download_rate,
        "metered": options.metered,
        "storage_budget_bytes": options.storage_budget,
        "memory_budget_bytes": options.memory_budget,
    }
    for command in ("runner_command", "front_command"):
        if isinstance(text := values.get(command), str):
            values[command] = tuple(text.split())
    try:
        settings = AgentSettings.model_validate(values)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UsageError(
                f"--set: there is no setting {name}; there are {', '.join(AgentSettings.model_fields)}"
            ) from exc
        raise UsageError(f"setting {name}: {first['msg'].removeprefix('Value error, ')}") from exc
    return start(settings)


def _enroll(options: argparse.Namespace) -> int:
    from edge_agent.defer import seconds_of  # noqa: PLC0415
    from edge_agent.enrolment.enrol import Asked, enrol  # noqa: PLC0415  it exits: what `cryptography` weighs goes
    from edge_agent.layout import Layout, default_data_dir  # noqa: PLC0415
    from edge_agent.link.identity import lock  # noqa: PLC0415
    from edge_agent.probe.read import facts_of_this_machine  # noqa: PLC0415
    from edge_agent.runtimes.registry import installed_runtimes  # noqa: PLC0415

    token = _token(options)
    if token is None:
        raise UsageError("give the token that edge-registry token create gave: --token, or --token-file")
    layout = Layout((options.data_dir or default_data_dir()).absolute())
    asked = Asked(
        registry_url=options.registry,
        token=token,
        device_id=_name(options.device_id, "--device-id"),
        profile=_name(options.profile, "--profile"),
        labels=dict(_pair(text, "--label") for text in options.label),
        runtimes={name.value: version for name, version in installed_runtimes().items()},
        facts=facts_of_this_machine(layout.root),
    )
    with lock(layout):
        identity = enrol(layout, asked, wait_s=seconds_of(options.wait), told=_say_aside, again=options.again)
    held = identity.credential
    if options.json:
        _say_json(identity.model_dump(mode="json", exclude={"key"}))
        return 0
    _say(f"this is device {identity.device_id} ({identity.profile}) of {identity.registry_url}")
    if held is not None:
        _say(f"certificate {held.serial[:16]}, renewed by the agent itself; run it with: edge-agent start")
    return 0


def _say_aside(text: str) -> None:
    sys.stderr.write(f"edge-agent: {text}\n")


def _token(options: argparse.Namespace) -> str | None:
    """The token for enrolling: from the flag, a file or the environment, in this order.

    Raises:
        UsageError: flag and file are given, or the file can't be read or is empty.
    """
    if options.token_file is None:
        return options.token or os.environ.get("SHOAL_ENROLL_TOKEN") or None
    if options.token is not None:
        raise UsageError("give either --token or --token-file")
    try:
        token: str = options.token_file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        raise UsageError(f"can't read a token from {options.token_file}: is it there, and a text?") from exc
    if not token:
        raise UsageError(f"{options.token_file} is empty: put the token that edge-registry gave into it")
    return token


def _status(options: argparse.Namespace) -> int:
    from edge_agent.layout import Layout, default_data_dir  # noqa: PLC0415
    from edge_agent.supervisor.control import ask  # noqa: PLC0415

    document = ask(Layout(options.data_dir or default_data_dir()).control_socket)
    if options.json:
        _say_json(document)
        return 0
    link = "connected to" if document["connected"] else "not connected to"
    _say(f"device {document['device_id']} ({document['profile']}), {link} {document['mqtt_url']}")
    _say(f"listens on {document['listen'] or 'Unix sockets only'}; fetches over {document['transport']}")
    spool = document["spool"]
    _say(f"telemetry waiting: {spool['reports']} reports, {spool['size_bytes']} bytes, {spool['dropped']} dropped")
    rows = [("MODEL", "VERSION", "DEPLOYMENT", "STATE", "SERVES", "INFERENCES", "REASON")]
    rows += [
        (
            d["model"],
            d["version"],
            d["deployment_id"],
            d["state"],
            "yes" if d["serving"] else "no",
            str(d["inferences"]),
            " ".join(part for part in (d["reason"].replace("none", ""), d["detail"]) if part),
        )
        for d in document["deployments"]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        _say("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]).rstrip())
    return 0


def _infer(options: argparse.Namespace) -> int:
    import json  # noqa: PLC0415

    from edge_agent.infer import infer, read_inputs  # noqa: PLC0415
    from edge_agent.layout import Layout, default_data_dir  # noqa: PLC0415

    inputs = read_inputs(options.inputs)
    model = _name(options.model, "MODEL") or ""
    answer = infer(Layout(options.data_dir or default_data_dir()).model_socket(model), model, inputs)
    if options.json:
        _say_json(answer)
        return 0
    for output in answer["outputs"]:
        _say(f"{output['name']} {output['datatype']} {output['shape']}")
        _say(json.dumps(output["data"]))
    return 0


def _defer(options: argparse.Namespace) -> int:
    from edge_agent.defer import defer, release, seconds_of  # noqa: PLC0415
    from edge_agent.layout import Layout, default_data_dir  # noqa: PLC0415

    layout = Layout(options.data_dir or default_data_dir())
    if (options.for_ is None) == (options.end is None):
        raise UsageError("give either --for TIME or --end TOKEN")
    if options.end is not None:
        release(layout, options.end)
        return 0
    for_s, model = seconds_of(options.for_), _name(options.model, "--model")
    granted = defer(layout, for_s=for_s, reason=options.reason, model=model, token=options.token)
    if options.json:
        _say_json({"token": granted.token, "until": granted.until, "waiting": granted.waiting})
        return 0
    waiting = f"{', '.join(granted.waiting)} waits" if granted.waiting else "nothing waits now"
    _say(f"no swap for {for_s:g} s; {waiting}; end it with edge-agent defer --end {granted.token}")
    return 0


def _diagnose(options: argparse.Namespace) -> int:
    from edge_agent.diagnosis.gather import gather  # noqa: PLC0415
    from edge_agent.layout import Layout, default_data_dir  # noqa: PLC0415
    from edge_agent.protocol.bundle import archive, device_files  # noqa: PLC0415

    root = (options.data_dir or default_data_dir()).absolute()
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}: give the agent's with --data-dir")
    diagnosis = gather(Layout(root), lines=options.lines)
    files = device_files(diagnosis)
    content = archive(files, device_id=diagnosis.device_id, taken_at=diagnosis.taken_at)
    try:
        options.output.write_bytes(content)
    except OSError as exc:
        raise UsageError(f"can't write {options.output}: {exc.strerror}") from exc
    if options.json:
        _say_json({"file": str(options.output), "size_bytes": len(content), "files": sorted(files)})
    else:
        _say(f"wrote {options.output}: {len(files)} files, {len(content)} bytes, without keys or tokens")
    return 0


def _probe(options: argparse.Namespace) -> int:
    from edge_agent.layout import default_data_dir  # noqa: PLC0415
    from edge_agent.probe.read import probe  # noqa: PLC0415
    from edge_agent.profiles import dump_profile  # noqa: PLC0415
    from edge_agent.runtimes.registry import installed_runtimes  # noqa: PLC0415

    profile = probe(
        data_dir=(options.data_dir or default_data_dir()).absolute(),
        runtimes=tuple(installed_runtimes()),
        name=_name(options.name, "--name"),
    )
    text = dump_profile(profile)
    if options.output is None:
        _say(text.rstrip())
        return 0
    try:
        options.output.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"can't write {options.output}: {exc.strerror}") from exc
    _say(f"wrote profile {profile.name} to {options.output}: look at its limits before you add it")
    return 0


def _profiles(options: argparse.Namespace) -> int:
    from edge_agent.profiles import well_known  # noqa: PLC0415

    if options.json:
        _say_json([profile.model_dump(mode="json", exclude_none=True) for profile in well_known().values()])
        return 0
    for name, profile in well_known().items():
        _say(f"{name:<12} {profile.arch:<8} {profile.ram_bytes >> 20:>6} MiB  {profile.description}")
    return 0


def _name(value: str | None, flag: str) -> str | None:
    """A name that is safe in topics and paths.

    Raises:
        UsageError: it is not.
    """
    import re  # noqa: PLC0415

    from edge_agent.protocol.base import NAME_PATTERN  # noqa: PLC0415

    if value is not None and (not re.match(NAME_PATTERN, value) or ".." in value or value.endswith("\n")):
        rule = "1 to 63 letters, digits, dots, dashes or underscores, beginning with a letter or digit"
        raise UsageError(f"{flag} is {shown(value)}: a name has {rule}")
    return value


def _pair(text: str, flag: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"{flag} is {text!r}: write KEY=VALUE")
    return key, value


def _count(text: str) -> int:
    from edge_agent.protocol.inquiry import MAX_LINES  # noqa: PLC0415  only where it is given

    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_LINES:
        raise argparse.ArgumentTypeError(f"{text!r} is no count: write 1 to {MAX_LINES}")
    return int(text)


def _size(text: str) -> int:
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 1)
    digits = text if factor == 1 else text[:-1]
    if not digits.isdigit() or int(digits) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write bytes, or 200M, or 2G")
    return int(digits) * factor


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _say_json(document: object) -> None:
    import json  # noqa: PLC0415  --help needs none of it

    _say(json.dumps(document, indent=2))


if __name__ == "__main__":
    sys.exit(main())
