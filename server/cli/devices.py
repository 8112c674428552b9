"""`edge-registry device`."""

from typing import TYPE_CHECKING, Annotated

import typer

from server.cli import inquiries
from server.cli.options import JsonOption, RegistryOption, split_labels
from server.cli.output import say, show_documents, show_json, show_pairs, show_table, text_of_labels, text_of_time
from server.cli.session import connected

if TYPE_CHECKING:
    from server.schemas.fleet import Device

app = typer.Typer(help="Devices that joined.", no_args_is_help=True)
app.command("logs")(inquiries.logs)
app.command("diagnose")(inquiries.diagnose)


@app.command("list")
def list_(
    selector: Annotated[str, typer.Option("--selector", "--to", help="For example site=berlin,ring!=stable.")] = "",
    registry: RegistryOption = None,
    *,
    retired: Annotated[bool, typer.Option("--retired", help="Those that were taken out of use.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The devices that a selector means; without one, all."""
    with connected(registry) as client:
        found = client.list_devices(selector, retired=retired)
    if as_json:
        show_documents(found)
        return
    rows = [
        (
            device.device_id,
            device.profile,
            text_of_labels(device.labels),
            f"retired {text_of_time(device.retired_at)}" if device.retired_at else device.presence,
            text_of_time(device.last_seen_at),
            ", ".join(_models(device)) or "-",
        )
        for device in found
    ]
    show_table(("device", "profile", "labels", "presence", "last seen", "runs"), rows, empty="no devices")


@app.command()
def show(device_id: str, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """One device with the state of its deployments."""
    with connected(registry) as client:
        device = client.get_device(device_id)
    if as_json:
        show_json(device.model_dump(mode="json"))
        return
    show_pairs(
        [
            ("device", device.device_id),
            ("profile", device.profile),
            ("labels", text_of_labels(device.labels)),
            ("presence", device.presence),
            ("last seen", text_of_time(device.last_seen_at)),
            ("joined", text_of_time(device.joined_at)),
            *_trust_of(device),
            ("generation", f"observed {device.observed_generation}, wanted {device.wanted_generation}"),
        ]
    )
    if device.status is not None:
        rows = [
            (
                f"{deployment.model}@{deployment.version}",
                deployment.variant_id,
                deployment.state,
                "yes" if deployment.serving else "no",
                str(deployment.inferences),
                deployment.detail or ("" if deployment.reason == "none" else deployment.reason),
            )
            for deployment in device.status.deployments
        ]
        show_table(("model", "variant", "state", "serving", "inferences", "why"), rows, empty="runs nothing")


@app.command()
def label(
    device_id: str,
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE|KEY-...", help="KEY- removes a label.")],
    registry: RegistryOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Set or remove labels of a device."""
    changes = split_labels(labels)
    with connected(registry) as client:
        device = client.label_device(device_id, changes)
    if as_json:
        show_json(device.model_dump(mode="json"))
    else:
        say(f"{device.device_id}  {text_of_labels(device.labels)}")


@app.command()
def retire(
    device_id: str,
    registry: RegistryOption = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also while a rollout is at work on it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take a device out of use: its certificate counts no more; to come back it enrols with a new token."""
    with connected(registry) as client:
        client.retire_device(device_id, force=force)
    if as_json:
        show_json({"device_id": device_id, "retired": True})
    else:
        say(f"device {device_id} is retired")


@app.command()
def revoke(device_id: str, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """A device is lost, stolen or copied: nothing of it counts from now on."""
    with connected(registry) as client:
        client.revoke_device(device_id)
    if as_json:
        show_json({"device_id": device_id, "revoked": True})
    else:
        say(f"device {device_id} is revoked; its successor: edge-registry token create --replace {device_id}")


@app.command()
def waiting(registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """Devices that have asked with a claim and wait to be let in."""
    with connected(registry) as client:
        found = client.list_claims()
    if as_json:
        show_documents(found)
        return
    rows = [
        (one.claim_id, one.device_id, one.profile or "-", one.token_id, text_of_time(one.asked_at)) for one in found
    ]
    show_table(("claim", "device", "profile", "token", "asked"), rows, empty="nobody waits")


@app.command()
def approve(
    claim_id: str,
    registry: RegistryOption = None,
    *,
    refuse: Annotated[bool, typer.Option("--refuse", help="Keep it out instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Let a device in that waits."""
    with connected(registry) as client:
        client.decide_claim(claim_id, approved=not refuse)
    if as_json:
        show_json({"claim_id": claim_id, "approved": not refuse})
    else:
        say(f"claim {claim_id} is {'refused' if refuse else 'approved'}")


def _trust_of(device: "Device") -> list[tuple[str, str]]:
    """What is to be said of a device's certificates."""
    rows: list[tuple[str, str]] = []
    if device.revoked_at is not None:
        rows.append(("revoked", text_of_time(device.revoked_at)))
    counting = [one for one in device.certificates if one.revoked_at is None]
    rows += [("certificate", f"{one.serial[:16]} until {text_of_time(one.expires_at)}") for one in counting]
    if device.clones:
        advice = "revoke it if you have not restored its disk"
        rows.append(("clone", f"seen {device.clones} times, last {text_of_time(device.clone_seen_at)}: {advice}"))
    return rows


def _models(device: "Device") -> list[str]:
    if device.status is None:
        return []
    return [f"{found.model}@{found.version}" for found in device.status.deployments if found.serving]
