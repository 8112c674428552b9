"""From settings and what the last run left behind to a plan: addresses, ports, keys, and which parts are embedded."""

import ipaddress
import random
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from server.settings import RegistrySettings
from server.stack.broker import broker_command, secure_listener
from server.stack.commands import Command
from server.stack.objects import INTERNAL_PORTS, embedded_keys, weed_command
from server.stack.ports import LOOPBACK, choose_ports
from server.stack.state import StackState
from server.trust.paths import TrustPaths


@dataclass(frozen=True, slots=True)
class StackPlan:
    """Everything decided before anything starts."""

    settings: RegistrySettings
    """With every address and key filled in: what the registry's processes are given."""
    bind_address: str
    probe_address: str
    """Where this machine reaches what is bound to `bind_address`."""
    ports: dict[str, int]
    parts: tuple[Command, ...]
    """The embedded broker and S3, unless the settings name others."""
    has_broker: bool

    @property
    def api_url(self) -> str:
        """Where operators and devices find the API."""
        scheme = "https" if self.settings.api_tls else "http"
        return f"{scheme}://{netloc(self.settings.host, self.ports['api'])}"

    def state(self) -> StackState:
        """What is written to stack.json, without the processes."""
        return StackState(
            host=self.settings.host,
            ports=self.ports,
            api_url=self.api_url,
            mqtt_url=self.settings.mqtt_url or "",
            s3_endpoint=self.settings.s3_endpoint or "",
            s3_bucket=self.settings.s3_bucket,
        )


def netloc(host: str, port: int) -> str:
    """`host:port` as it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def make_plan(settings: RegistrySettings, previous: StackState | None, chance: random.Random) -> StackPlan:
    """Decide addresses and ports, and write the configuration of the embedded parts.

    Raises:
        SettingsError: the host does not resolve.
        StackError: a port is taken, or an executable is missing.
    """
    bind_address = settings.resolved_bind_address()
    probe_address = LOOPBACK if ipaddress.ip_address(bind_address).is_unspecified else bind_address
    own_broker, own_s3 = settings.mqtt_url is None, settings.s3_endpoint is None
    remembered = previous.ports if previous else {}
    advertised = ["api", *(["mqtt"] if own_broker else []), *(["s3"] if own_s3 else [])]
    internal = INTERNAL_PORTS if own_s3 else ()
    fixed = {name: port for name, port in remembered.items() if name in {*advertised, *internal}}
    if settings.api_port is not None:
        fixed["api"] = settings.api_port
    # SeaweedFS listens for S3 on the loopback too, whatever it is told to bind.
    ports = choose_ports([*advertised, *internal], fixed=fixed, addresses=_where_needed(bind_address), chance=chance)
    paths = TrustPaths(settings.trust_dir)
    parts: list[Command] = []
    resolved: dict[str, object] = {"bind_address": bind_address, "api_port": ports["api"]}
    if own_broker:
        listener = secure_listener(address=bind_address, port=ports["mqtt"], paths=paths)
        parts.append(broker_command(settings.data_dir / "mosquitto", listener=listener))
        resolved["mqtt_url"] = f"mqtts://{netloc(settings.host, ports['mqtt'])}"
    if own_s3:
        keys = embedded_keys(settings.data_dir)
        parts.append(weed_command(settings.data_dir / "s3", address=bind_address, ports=ports, keys=keys, tls=paths))
        resolved["s3_ca"] = paths.root
        resolved["s3_endpoint"] = f"https://{netloc(settings.host, ports['s3'])}"
        resolved["s3_access_key"], resolved["s3_secret_key"] = keys.access_key, SecretStr(keys.secret_key)
    return StackPlan(
        settings=settings.with_values(**resolved),
        bind_address=bind_address,
        probe_address=probe_address,
        ports=ports,
        parts=tuple(parts),
        has_broker=own_broker,
    )


def host_names(settings: RegistrySettings) -> set[str]:
    """Under which names the parts are reached: from elsewhere, and on this machine.

    Raises:
        SettingsError: the host does not resolve.
    """
    return {settings.host, settings.resolved_bind_address(), "localhost", LOOPBACK, "::1"} - {"0.0.0.0", "::"}  # noqa: S104  left out


def warnings_of(plan: StackPlan) -> list[str]:
    """What is allowed and probably not meant."""
    host, found = plan.settings.host, []
    is_name = host not in {"localhost", plan.bind_address}
    if is_name and ipaddress.ip_address(plan.bind_address).is_loopback:
        found.append(f"The name {host} resolves to {plan.bind_address} here: devices elsewhere cannot reach it.")
    if (plan.settings.mqtt_url or "").startswith("mqtt:"):
        found.append(
            f"What goes to and from {plan.settings.mqtt_url} is not encrypted, and that broker says who may connect."
        )
    if not plan.settings.api_tls:
        found.append("The API speaks no TLS: let a proxy on this machine do it, and nobody reach the API itself.")
    return found


def make_folders(data_dir: Path) -> None:
    """The folders that must be there before anything starts."""
    (data_dir / "logs").mkdir(parents=True, exist_ok=True, mode=0o700)


def _where_needed(bind_address: str) -> list[str]:
    if ipaddress.ip_address(bind_address).is_unspecified:
        return [bind_address]
    return sorted({bind_address, LOOPBACK})
