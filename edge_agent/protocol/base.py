"""What every wire model has in common, and the names that are allowed in topics, paths and keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

PROTOCOL_VERSION = 1


class Wire(BaseModel):
    """A payload, or a part of one. An unknown field is ignored, so that either side may be one version newer."""

    model_config = ConfigDict(extra="ignore", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")


class StrictWire(BaseModel):
    """A document that a person writes: an unknown field is a spelling mistake and is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def build_late() -> None:
    """Let the models that are defined from now on build their validators at first use: an agent needs few of them.

    Only for a process in which one thread alone reads and writes models: pydantic doesn't lock what it builds late.
    """
    Wire.model_config["defer_build"] = True
    StrictWire.model_config["defer_build"] = True


def _no_dot_dot(value: str) -> str:
    if ".." in value:
        raise ValueError("two dots in a row are not allowed in a name")
    return value


def _without_nul(value: str) -> str:
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")


# One grammar for every name: it is safe as an MQTT level, a file name, an S3 key and a URL segment.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
Name = Annotated[
    str,
    StringConstraints(pattern=NAME_PATTERN),
    AfterValidator(_no_dot_dot),
    Field(description="1 to 63 letters, digits, dots, dashes or underscores; begins with a letter or digit"),
]
# What a device says in words. A NUL among them would be refused by PostgreSQL, with everything written beside it.
Detail = Annotated[str, Field(max_length=512), AfterValidator(_without_nul)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Bytes = Annotated[int, Field(ge=0, le=1 << 50)]
Count = Annotated[int, Field(ge=0, le=1 << 53)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
