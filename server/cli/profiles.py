"""`edge-registry profile`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import JsonOption, RegistryOption
from server.cli.output import fail, say, show_documents, show_json, show_table, text_of_bytes, text_of_number
from server.cli.session import connected

if TYPE_CHECKING:
    from edge_agent.protocol.profile import DeviceProfile

app = typer.Typer(help="Kinds of devices and the limits that a model must meet there.", no_args_is_help=True)


@app.command()
def add(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML, or a well-known name.")],
    registry: RegistryOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Register profiles from YAML files (`edge-agent probe` writes one), or well-known ones by name."""
    profiles = [read_profile(path) for path in files]  # all are read before the first is sent
    with connected(registry) as client:
        added = [client.add_profile(profile) for profile in profiles]
    if as_json:
        show_documents(added)
    else:
        for profile in added:
            say(f"profile {profile.name} is registered")


@app.command("list")
def list_(registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """All profiles."""
    with connected(registry) as client:
        profiles = client.list_profiles()
    if as_json:
        show_documents(profiles)
        return
    columns = ("profile", "cpu", "cores", "ram", "storage", "runtimes", "limits")
    show_table(columns, [_row(profile) for profile in profiles], empty="no profiles: `edge-registry profile add FILE`")


@app.command()
def show(name: str, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """One profile, as the YAML that would register it."""
    with connected(registry) as client:
        profile = client.get_profile(name)
    if as_json:
        show_json(profile.model_dump(mode="json"))
        return
    from edge_agent.profiles import dump_profile  # noqa: PLC0415  `--help` must not wait for it

    say(dump_profile(profile).rstrip())


def read_profile(path: Path) -> "DeviceProfile":
    """A profile from a file, or a well-known one by its name; what is wrong ends the program with a sentence."""
    from edge_agent.profiles import ProfileError, load_profile, well_known  # noqa: PLC0415  `--help` must not wait

    if not path.exists() and str(path) in (known := well_known()):
        return known[str(path)]
    try:
        return load_profile(path.read_text("utf-8"))
    except OSError as exc:
        fail(f"The file {path} can't be read: {exc.strerror}. Profiles that need no file: {', '.join(well_known())}.")
    except UnicodeDecodeError:
        fail(f"The file {path} is no UTF-8 text, so it holds no profile.")
    except ProfileError as exc:
        fail(f"{path}: {exc}.")


def _row(profile: "DeviceProfile") -> tuple[str, ...]:
    limits = profile.limits
    said = {
        "p95 ms": text_of_number(limits.latency_p95_ms),
        "metric": text_of_number(limits.metric_floor),
        "drop": text_of_number(limits.metric_max_drop),
        "ram": text_of_bytes(limits.ram_bytes),
        "download": text_of_bytes(limits.download_bytes),
        "storage": text_of_bytes(limits.storage_bytes),
    }
    return (
        profile.name,
        profile.cpu.model,
        str(profile.cpu.cores),
        text_of_bytes(profile.ram_bytes),
        text_of_bytes(profile.storage_bytes),
        ",".join(profile.runtimes),
        ", ".join(f"{name} {value}" for name, value in said.items() if value != "-") or "-",
    )
