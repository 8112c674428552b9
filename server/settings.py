"""Settings of every registry process: defaults < file < environment (`SHOAL_...`) < flags. Knows no user of them."""

import difflib
import ipaddress
import json
import os
import socket
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from server.errors import SettingsError
from server.trust.paths import FOLDER_NAME

ENVIRONMENT_PREFIX: Final = "SHOAL_"
CONFIG_VARIABLE: Final = "SHOAL_CONFIG"
CONFIG_FILE_NAME: Final = "registry.toml"

Port = Annotated[int, Field(ge=1, le=65535)]
MIN_JOB_MEMORY_BYTES: Final = 256 * 1024 * 1024


def default_data_dir() -> Path:
    """Where a registry lives when nobody says otherwise: the XDG data folder of the user."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "shoal" / "registry"


OWN_RUNTIMES = ("litert", "onnx", "executorch")  # may share an environment; tflite-runtime wants an older numpy


class RegistrySettings(BaseSettings):
    """All that can be set. Build it with `load_settings`, which also reads the file."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, extra="forbid", validate_default=True, frozen=True)

    data_dir: Path = Field(default_factory=default_data_dir, description="everything the registry keeps")
    host: str = Field("127.0.0.1", min_length=1, max_length=253, description="name that is bound and advertised")
    bind_address: str | None = Field(None, description="address to bind when it is not the one that `host` resolves to")
    api_port: Port | None = Field(None, description="HTTP API; none: chosen on the first start, then remembered")

    database_url: str = Field("", description="catalogue; empty: SQLite `registry.db` in the data folder")
    telemetry_url: str = Field("", description="telemetry; empty: SQLite `telemetry.db` in the data folder")

    s3_endpoint: str | None = Field(None, description="http(s)://host:port; none: the embedded SeaweedFS")
    s3_bucket: str = Field("shoal", pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    s3_access_key: str | None = None
    s3_secret_key: SecretStr | None = None
    s3_region: str = Field("us-east-1", min_length=1)

    s3_ca: Path | None = Field(None, description="whom to trust at an https endpoint; none: the public authorities")

    mqtt_url: str | None = Field(
        None, description="mqtts://host:port, or unencrypted mqtt://host:port; none: the embedded Mosquitto"
    )

    api_tls: bool = Field(True, description="false only behind a proxy of your own that speaks TLS")
    device_certificate_days: float = Field(180.0, ge=1, le=3650, description="devices renew theirs after two thirds")

    # both are secrets: the address of many receivers holds a token
    webhook_url: SecretStr | None = Field(None, description="http(s)://...: each decision of a rollout is posted there")
    webhook_secret: SecretStr | None = Field(None, min_length=1, description="signs what is posted (HMAC-SHA256)")

    worker_count: int = Field(1, ge=0, le=256, description="job worker processes that `up` starts")
    job_memory_bytes: int = Field(8 * 1024**3, ge=MIN_JOB_MEMORY_BYTES, description="address space of one job")
    job_timeout_s: float = Field(3600.0, gt=0)
    runtime_pythons: dict[str, Path] = Field(
        default_factory=dict,
        description="python executable per inference runtime; this one by default, but for `tflite`",
    )

    telemetry_interval_s: float = Field(60.0, gt=0, description="window of one TelemetryReport")
    presence_interval_s: float = Field(60.0, gt=0, description="a device unheard for two of these is `unknown`")
    ingest_batch_size: int = Field(200, ge=1, le=5000, description="reports committed in one transaction")
    block_rate_bytes_s: float = Field(20e6, gt=0, description="pace of the first pass of an object over MQTT")
    presign_expiry_s: int = Field(3600, ge=1, le=7 * 24 * 3600)
    max_upload_bytes: int = Field(4 * 1024**3, ge=1)

    # longer than agents keep what was not acknowledged (14 days): a report that comes again must still be known
    reports_hourly_days: float = Field(16.0, ge=15, description="older telemetry is merged, a row an hour")
    reports_daily_days: float = Field(45.0, ge=15, description="older telemetry is merged, a row a day")
    reports_keep_days: float = Field(90.0, ge=15, description="older telemetry is deleted")
    decisions_keep_days: float = Field(365.0, ge=1, description="older sentences of ended rollouts are deleted")
    # longer than any push or job takes from the bytes in the store to the row that names them
    objects_grace_days: float = Field(7.0, ge=2, description="objects named by nothing are deleted after so long")
    cache_keep_days: float = Field(30.0, ge=1, description="results of build steps unused for so long are deleted")
    cache_limit_bytes: int = Field(20 * 1024**3, ge=0, description="beyond it the least recently used ones go")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("mqtt_url")
    @classmethod
    def _check_mqtt_url(cls, value: str | None) -> str | None:
        return value and _checked_url(value, schemes=("mqtts", "mqtt"), example="mqtts://broker.example:8883")

    @field_validator("webhook_url")
    @classmethod
    def _check_webhook_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not _is_address(value.get_secret_value(), schemes=("http", "https")):
            raise ValueError("it is not an address such as https://hooks.example/shoal")
        return value or None

    @field_validator("s3_endpoint")
    @classmethod
    def _check_s3_endpoint(cls, value: str | None) -> str | None:
        return value and _checked_url(value, schemes=("http", "https"), example="http://s3.example:8333").rstrip("/")

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        if self.s3_endpoint and not (self.s3_access_key and self.s3_secret_key):
            raise ValueError("s3_endpoint needs s3_access_key and s3_secret_key")
        # The model is frozen for its users; what follows from other fields is put in here, once.
        fill = object.__setattr__
        if not self.database_url:
            fill(self, "database_url", f"sqlite:///{self.data_dir / 'registry.db'}")
        if not self.telemetry_url:
            fill(self, "telemetry_url", f"sqlite:///{self.data_dir / 'telemetry.db'}")
        fill(self, "runtime_pythons", {**dict.fromkeys(OWN_RUNTIMES, Path(sys.executable)), **self.runtime_pythons})
        return self

    @property
    def cache_dir(self) -> Path:
        """What builds on this machine remember of each other."""
        return self.data_dir / "cache"

    @property
    def trust_dir(self) -> Path:
        """Where the registry's keys and certificates lie."""
        return self.data_dir / FOLDER_NAME

    @property
    def log_dir(self) -> Path:
        """Where the child processes of `up` write their logs."""
        return self.data_dir / "logs"

    def with_values(self, **values: object) -> "RegistrySettings":
        """A copy with some values replaced, validated like all the others."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return RegistrySettings(**{**given, **values})

    def resolved_bind_address(self) -> str:
        """The IP address to listen on: `bind_address`, or what `host` resolves to.

        Raises:
            SettingsError: `host` does not resolve.
        """
        return resolve_address(self.bind_address or self.host)

    def child_environment(self) -> dict[str, str]:
        """These settings as environment variables, so that each process of one `up` sees the very same ones."""
        environment: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, SecretStr):
                text = value.get_secret_value()
            elif isinstance(value, dict):
                text = json.dumps({key: str(item) for key, item in value.items()})
            else:
                text = str(value)
            environment[f"{ENVIRONMENT_PREFIX}{name.upper()}"] = text
        return environment


def load_settings(
    data_dir: Path | None = None, config: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> RegistrySettings:
    """Read the settings of this process.

    Args:
        data_dir: the flag `--data-dir`; wins over the environment and the file.
        config: the flag `--config`; else SHOAL_CONFIG; else `registry.toml` in the data folder, if there is one.
        overrides: other flags that were given, by setting name; `None` values count as not given.

    Raises:
        SettingsError: a file that is missing, is not TOML or names an unknown setting; a value that cannot be.
    """
    flags: dict[str, Any] = {name: value for name, value in (overrides or {}).items() if value is not None}
    if data_dir is not None:
        flags["data_dir"] = data_dir
    environment = _environment_values()
    named = config or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    folder = Path(flags.get("data_dir") or environment.get("data_dir") or default_data_dir()).expanduser()
    path = named or folder / CONFIG_FILE_NAME
    from_file = _read_file(path, required=named is not None)
    if named is None and "data_dir" in from_file:
        raise SettingsError(f"{path} must not set data_dir: it lies in the data folder itself; use --data-dir.")
    values = {**from_file, **environment, **flags}
    in_file, in_environment = from_file.get("runtime_pythons"), environment.get("runtime_pythons")
    if "runtime_pythons" not in flags and isinstance(in_file, dict) and isinstance(in_environment, dict):
        values["runtime_pythons"] = {**in_file, **in_environment}
    try:
        return RegistrySettings(**values)
    except ValidationError as exc:
        raise SettingsError(_one_sentence(exc, from_file, environment, path)) from exc


def resolve_address(host: str) -> str:
    """The first IP address of a host name.

    Raises:
        SettingsError: the name does not resolve.
    """
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        message = (
            f"The host name {host!r} does not resolve ({exc}); give a name or address of this machine with --host."
        )
        raise SettingsError(message) from exc
    return str(found[0][4][0])


def _environment_values() -> dict[str, Any]:
    try:
        return dict(EnvSettingsSource(RegistrySettings)())
    except ValueError as exc:  # pydantic-settings raises its SettingsError, a ValueError, for JSON that is none
        raise SettingsError(
            f'{ENVIRONMENT_PREFIX}RUNTIME_PYTHONS must be JSON such as {{"tflite": "/path/to/python"}} ({exc}).'
        ) from exc


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as exc:
        if not required:
            return {}
        raise SettingsError(f"The settings file {path} does not exist.") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"The settings file {path} is not valid TOML: {exc}.") from exc
    except OSError as exc:
        raise SettingsError(f"The settings file {path} cannot be read: {exc.strerror}.") from exc
    known = list(RegistrySettings.model_fields)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
            raise SettingsError(f"The settings file {path} has an unknown setting {name!r}: {hint}")
    return values


def _one_sentence(
    exc: ValidationError, from_file: Mapping[str, Any], environment: Mapping[str, Any], path: Path
) -> str:
    first = exc.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    reason = first["msg"].removeprefix("Value error, ")
    if not name:
        return f"The settings do not fit together: {reason}."
    if name in environment:
        where = f"{ENVIRONMENT_PREFIX}{name.upper()}"
    else:
        where = f"{name} in {path}" if name in from_file else name
    return f"The setting {where} is not usable: {reason}."


def _checked_url(value: str, *, schemes: tuple[str, ...], example: str) -> str:
    if not _is_address(value, schemes=schemes):
        raise ValueError(f"{value!r} is not an address such as {example}")
    return value


def _is_address(value: str, *, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
