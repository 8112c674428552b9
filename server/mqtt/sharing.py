"""The names of shared subscriptions, which only the registry's own processes know.

Whoever subscribes with the same name gets a share of the messages. Mosquitto looks at the access list when it delivers,
and what it does not deliver to a member that may not read is gone (seen in 2.0.11): a device that knew the name could
not read what others report, but could keep it from being counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.errors import SettingsError
from server.trust.paths import TrustPaths

if TYPE_CHECKING:
    from server.settings import RegistrySettings


def share_name(settings: RegistrySettings, group: str) -> str:
    """What a group of processes calls its shared subscriptions.

    Raises:
        SettingsError: the secret can't be read.
    """
    if not (settings.mqtt_url or "").startswith("mqtts:"):
        return group  # whoever runs that broker says who may subscribe to what
    path = TrustPaths(settings.trust_dir).share
    try:
        return f"{group}-{path.read_text('ascii').strip()}"
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} can't be read: start the registry with `edge-registry up`.") from exc
