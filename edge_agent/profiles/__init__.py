"""Device profiles as YAML: those that come with Shoal, and the one way to read what a person has written."""

from __future__ import annotations

from importlib import resources

import yaml
from pydantic import ValidationError

from edge_agent.errors import EdgeAgentError
from edge_agent.profiles.plain_yaml import PlainYamlError, load_plain
from edge_agent.protocol.profile import DeviceProfile
from edge_agent.protocol.refusal import expectation, shown

MAX_BYTES = 64 * 1024
_SUFFIX = ".yaml"


class ProfileError(EdgeAgentError):
    """A profile says what can't be; the text is one sentence with the field and what is allowed."""

    code = "bad_profile"


def well_known() -> dict[str, DeviceProfile]:
    """The profiles that come with Shoal, by name."""
    files = (entry for entry in resources.files(__name__).iterdir() if entry.name.endswith(_SUFFIX))
    profiles = [load_profile(file.read_text(encoding="utf-8")) for file in files]
    return {profile.name: profile for profile in sorted(profiles, key=lambda p: p.name)}


def load_profile(text: str) -> DeviceProfile:
    """Read a profile.

    Raises:
        ProfileError: not YAML, or a field that is missing, unknown or out of range.
    """
    try:
        document = load_plain(text, max_bytes=MAX_BYTES)
    except PlainYamlError as exc:
        raise ProfileError(f"the profile {exc}") from exc
    if not isinstance(document, dict):
        raise ProfileError("the profile is not a mapping of fields: it begins with `name: ...`")
    try:
        return DeviceProfile.model_validate(document)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProfileError(_sentence(where, first["type"], first["msg"], first["input"])) from exc


def dump_profile(profile: DeviceProfile) -> str:
    """Write a profile; `load_profile` reads the same again."""
    document = profile.model_dump(mode="json", exclude_none=True)
    document["cpu"]["features"] = sorted(document["cpu"]["features"])
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text


def _sentence(where: str, kind: str, message: str, value: object) -> str:
    if kind == "extra_forbidden":
        return f"the profile has an unknown field {where}: look for a spelling mistake"
    if kind == "missing":
        return f"the profile lacks the field {where}"
    message = message.removeprefix("Value error, ")
    if not where:
        return f"the profile contradicts itself: {message}"
    return f"the profile's {where} is {shown(value)}: {expectation(kind, message)}"
