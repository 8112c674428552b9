"""The one error root of the registry: each error has a wire code for ever and says whether to try again."""

from typing import ClassVar


class RegistryError(Exception):
    """Anything the registry refuses or fails at; `str(error)` is one sentence that a user can act on."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False


class SettingsError(RegistryError):
    """The settings (file, environment or flags) say something that cannot be."""

    code = "bad_settings"
