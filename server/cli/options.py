"""Options and arguments that many commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edge_agent.protocol.refusal import shown
from server.cli.output import fail

RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="SHOAL_REGISTRY",
        help="URL of the registry; without it, the one that runs on this machine.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="Everything the registry keeps.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file (TOML).")]
ComputeDeviceOption = Annotated[
    Literal["cpu", "cuda", "auto"],
    typer.Option("--device", help="Where recipes train; auto: on a GPU where jobs run on a machine with one."),
]
ModelVersionArgument = Annotated[str, typer.Argument(metavar="MODEL@VERSION", help="For example lite0@1.")]

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL[@VERSION]", help="For example lite0@1; without @, its newest version.")
]


def split_version(text: str) -> tuple[str, str]:
    """MODEL@VERSION as two names."""
    model, at, version = text.partition("@")
    if not (model and at and version):
        fail(f"{shown(text)} is not MODEL@VERSION; write for example lite0@1.", exit_code=2)
    return model, version


def split_labels(texts: list[str]) -> dict[str, str | None]:
    """KEY=VALUE sets a label, KEY- removes it."""
    labels: dict[str, str | None] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if equals and key and value:
            labels[key] = value
        elif not equals and len(key) > 1 and key.endswith("-"):
            labels[key[:-1]] = None
        else:
            fail(f"{shown(text)} is neither KEY=VALUE nor KEY- (which removes the label).", exit_code=2)
    return labels
