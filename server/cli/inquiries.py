"""`edge-registry device logs` and `edge-registry device diagnose`: a device is asked, and its answer shown or kept."""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from server.cli.options import JsonOption, RegistryOption
from server.cli.output import fail, say, show_json, text_of_bytes
from server.cli.session import connected
from server.cli.tokens import seconds_of

if TYPE_CHECKING:
    from edge_agent.protocol.inquiry import LogTail
    from server.client import RegistryClient
    from server.schemas.inquiries import InquiryForm, InquiryView

FOLLOW_S: Final = 2.0  # between two questions

Lines = Annotated[int, typer.Option("--lines", "-n", min=1, max=5000, help="The latest ones, at most so many.")]
Since = Annotated[str, typer.Option("--since", help="Not older by the device's clock, for example 2h.")]
Level = Annotated[str, typer.Option("--level", help="info, warning or error, and what is graver.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Ask again every few seconds, until Ctrl-C.")]
Wait = Annotated[str, typer.Option("--wait", help="The device is asked for so long, for example 1h, until it answers.")]
EvenMetered = Annotated[
    bool, typer.Option("--even-metered", help="A large answer also of a device on which every byte costs.")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="A .tar.gz; by default named by device and time.")]


def logs(  # noqa: PLR0913  a flag for each thing that may be said of lines
    device_id: str,
    lines: Lines = 200,
    since: Since = "",
    level: Level = "info",
    wait: Wait = "30s",
    registry: RegistryOption = None,
    *,
    follow: Follow = False,
    even_metered: EvenMetered = False,
    as_json: JsonOption = False,
) -> None:
    """The latest lines of a device's own log; the device is asked for them now."""
    options = {
        "kind": "log",
        "lines": lines,
        "level": level,
        "since_s": seconds_of(since) if since else None,
        "wait_s": seconds_of(wait),
        "even_metered": even_metered,
    }
    form = _form(options)
    with connected(registry) as client:
        if follow:
            _follow(client, device_id, options, as_json=as_json)
        found = client.get_device_log(_answered(client, device_id, form).inquiry_id)
    if as_json:
        show_json(found.model_dump(mode="json"))
        return
    _show(found)
    if found.left_out:
        sys.stderr.write(f"{found.left_out} earlier lines are left out: --lines shows more of them\n")
    elif not found.lines:
        sys.stderr.write("no lines: nothing that is meant was logged\n")


def diagnose(
    device_id: str,
    output: Output = None,
    wait: Wait = "2m",
    registry: RegistryOption = None,
    *,
    even_metered: EvenMetered = False,
    as_json: JsonOption = False,
) -> None:
    """Write one file with all that helps to find a fault of a device: what it says, and what the registry knows."""
    from server.client import RegistryClientError  # noqa: PLC0415  httpx: `--help` must not wait for it

    path = output or Path(f"shoal-{device_id}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz")
    form = _form({"kind": "diagnosis", "lines": 2000, "wait_s": seconds_of(wait), "even_metered": even_metered})
    silent = ""
    with connected(registry) as client:
        asked = client.ask_device(device_id, form)
        _tell(asked)
        try:
            client.wait_for_answer(asked.inquiry_id)
        except RegistryClientError as exc:
            if exc.code not in {"refused", "timeout"}:
                raise
            silent = exc.message
        content = client.get_bundle(asked.inquiry_id)
    try:
        path.write_bytes(content)
    except OSError as exc:
        fail(f"{path} can't be written: {exc.strerror}; choose another --output.")
    if as_json:
        show_json({"file": str(path), "size_bytes": len(content), "answered": not silent})
    else:
        say(f"wrote {path}, {text_of_bytes(len(content))}: README.txt in it says what is in each file")
    if silent:
        fail(f"{silent} What the registry knows is in the file.")


def _form(options: dict[str, Any]) -> "InquiryForm":
    from pydantic import ValidationError  # noqa: PLC0415  `--help` must not wait for these

    from server.schemas.inquiries import InquiryForm  # noqa: PLC0415
    from server.schemas.sentence import sentence  # noqa: PLC0415

    try:
        return InquiryForm.model_validate(options)
    except ValidationError as exc:
        fail(sentence(exc.errors(include_url=False)), exit_code=2)


def _answered(client: "RegistryClient", device_id: str, form: "InquiryForm") -> "InquiryView":
    asked = client.ask_device(device_id, form)
    _tell(asked)
    return client.wait_for_answer(asked.inquiry_id)


def _tell(asked: "InquiryView") -> None:
    if asked.presence not in {"online", "unknown"}:
        remaining_s = asked.expires_at - asked.created_at
        sys.stderr.write(f"device {asked.device_id} is {asked.presence}: waiting {remaining_s:.0f} s for it\n")


def _show(found: "LogTail") -> None:
    from edge_agent.protocol.bundle import shown  # noqa: PLC0415  `--help` must not wait for it

    for line in found.lines:
        say(shown(line))
    sys.stdout.flush()


def _follow(client: "RegistryClient", device_id: str, options: dict[str, Any], *, as_json: bool) -> None:
    """Show what is new, until Ctrl-C; each line once, as one JSON document where programs read."""
    from server.client import RegistryClientError  # noqa: PLC0415  httpx: `--help` must not wait for it

    after, silent = 0, False
    while True:
        try:
            asked = client.ask_device(device_id, _form({**options, "after": after}))
            found = client.get_device_log(client.wait_for_answer(asked.inquiry_id).inquiry_id)
        except RegistryClientError as exc:
            if exc.code != "timeout":
                raise
            if not silent:
                sys.stderr.write(f"edge-registry: {exc.message} It is asked further.\n")
            silent = True
            continue
        silent, after = False, found.last_number
        if as_json:
            for line in found.lines:
                say(line.model_dump_json())
            sys.stdout.flush()
        else:
            _show(found)
        options = {**options, "since_s": None, "lines": 5000}
        time.sleep(FOLLOW_S)
