"""TLS towards the registry's own servers, by the standard library alone: who trusts the root, and who shows what."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from server.errors import SettingsError
from server.trust.names import Role, service_name
from server.trust.paths import TrustPaths

if TYPE_CHECKING:
    from pathlib import Path

    from server.settings import RegistrySettings


def trusting(root: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with whoever has a certificate of this root, and of nobody else's.

    Raises:
        SettingsError: the file is not there or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=root)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(f"{root} can't be read as a root certificate: {exc}.") from exc


def broker_context(settings: RegistrySettings, role: Role, instance: str | None = None) -> ssl.SSLContext | None:
    """What a process of the registry connects to the broker with; None: the settings name one without encryption.

    Raises:
        SettingsError: the process has no certificate.
    """
    if urlsplit(settings.mqtt_url or "").scheme != "mqtts":
        return None
    paths = TrustPaths(settings.trust_dir)
    context, own = trusting(paths.root), paths.service(service_name(role, instance))
    try:
        context.load_cert_chain(own)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(f"{own} can't be used as certificate and key of this process: {exc}.") from exc
    return context
