"""What lies where in the folder of keys and certificates. Paths only; knows nothing of what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

FOLDER_NAME: Final = "trust"
_PREFIX: Final = "registry:"


@dataclass(frozen=True, slots=True)
class TrustPaths:
    """The files of one registry; its owner alone may read them."""

    folder: Path

    @property
    def root(self) -> Path:
        """The root's certificate: what devices and operators trust."""
        return self.folder / "root.crt"

    @property
    def root_key(self) -> Path:
        """Its key, unless it lies elsewhere."""
        return self.folder / "root.key"

    @property
    def intermediate(self) -> Path:
        """The certificate of what issues."""
        return self.folder / "intermediate.crt"

    @property
    def intermediate_key(self) -> Path:
        """Its key."""
        return self.folder / "intermediate.key"

    @property
    def server(self) -> Path:
        """The certificate of API, broker and S3, and the intermediate's behind it."""
        return self.folder / "server.crt"

    @property
    def server_key(self) -> Path:
        """Its key."""
        return self.folder / "server.key"

    @property
    def services(self) -> Path:
        """Key and certificate of each process that connects to the broker."""
        return self.folder / "services"

    def service(self, name: str) -> Path:
        """Of one process."""
        return self.services / f"{name.removeprefix(_PREFIX)}.pem"

    def name_of(self, path: Path) -> str:
        """The process whose file this is."""
        return f"{_PREFIX}{path.stem}"

    @property
    def broker(self) -> Path:
        """What the broker reads."""
        return self.folder / "broker"

    @property
    def authorities(self) -> Path:
        """Root and intermediate: who connects with a certificate of theirs is let in."""
        return self.broker / "authorities.crt"

    @property
    def revoked(self) -> Path:
        """Certificates that count no more."""
        return self.broker / "revoked.crl"

    @property
    def access(self) -> Path:
        """Who may publish and read what."""
        return self.broker / "access"

    @property
    def share(self) -> Path:
        """A secret that names the shared subscriptions (see `server.mqtt.sharing`)."""
        return self.folder / "share"
