"""The embedded SeaweedFS as S3 server: its command, its ports and its keys."""

import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from server.stack.commands import Command
from server.stack.errors import StackError
from server.stack.ports import LOOPBACK
from server.trust.paths import TrustPaths

KEYS_NAME: Final = "s3-keys.json"
# Each of its four services listens for HTTP and for gRPC.
INTERNAL_PORTS: Final = (
    "s3_grpc",
    "weed_master",
    "weed_master_grpc",
    "weed_volume",
    "weed_volume_grpc",
    "weed_filer",
    "weed_filer_grpc",
)
# On SIGTERM it waits 15 s for streams of its own that never end (seen in 4.48), and only then closes its volumes.
# Whoever used it has stopped before, and what it acknowledged is in the files: so it gets a moment and no more.
STOP_GRACE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class S3Keys:
    """What signs requests to S3."""

    access_key: str
    secret_key: str


def embedded_keys(data_dir: Path) -> S3Keys:
    """The keys of this data folder, made on the first start; only the owner can read the file.

    Raises:
        StackError: the file is there and is damaged.
    """
    path = data_dir / KEYS_NAME
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        try:
            stored = json.loads(path.read_text("utf-8"))
            return S3Keys(str(stored["access_key"]), str(stored["secret_key"]))
        except (ValueError, KeyError, TypeError) as exc:
            raise StackError(f"{path} is damaged: remove it, and `up` makes new keys.") from exc
    keys = S3Keys(access_key=secrets.token_hex(10), secret_key=secrets.token_urlsafe(30))
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"access_key": keys.access_key, "secret_key": keys.secret_key}, file)
        file.flush()
        os.fsync(file.fileno())
    return keys


def weed_executable() -> str:
    """Where SeaweedFS is: beside our Python, where its wheel puts it, or on the PATH.

    Raises:
        StackError: nowhere.
    """
    beside = Path(sys.executable).parent / "weed"
    if beside.is_file():
        return str(beside)
    found = shutil.which("weed")
    if found is None:
        raise StackError(
            "The S3 server `weed` is not installed: install the extra `shoal[server]`, "
            "or name a running S3 with SHOAL_S3_ENDPOINT, SHOAL_S3_ACCESS_KEY and SHOAL_S3_SECRET_KEY."
        )
    return found


def weed_command(
    folder: Path, *, address: str, ports: Mapping[str, int], keys: S3Keys, tls: TrustPaths | None = None
) -> Command:
    """The command that serves S3 on `address` at port `ports["s3"]`, with everything else on the loopback only.

    With `tls`, by HTTPS.

    `weed server` and not `weed mini`: mini binds all its services, most of which ask for no password, to one address,
    and adds a WebDAV gateway and an admin page.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    options: dict[str, object] = {
        "dir": folder,
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,
        "master.port": ports["weed_master"],
        "master.port.grpc": ports["weed_master_grpc"],
        "volume.port": ports["weed_volume"],
        "volume.port.grpc": ports["weed_volume_grpc"],
        "filer": "true",
        "filer.port": ports["weed_filer"],
        "filer.port.grpc": ports["weed_filer_grpc"],
        "filer.localSocket": folder / "filer.sock",
        "s3": "true",
        "s3.ip.bind": address,
        "s3.port": ports["s3"],
        "s3.port.grpc": ports["s3_grpc"],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": folder / "s3.sock",
        # A mistyped bucket is an error, not a new bucket.
        "s3.autoCreateBucket": "false",
        # It is on by default and reports to its makers.
        "master.telemetry": "false",
        # A restart waits for the one master to elect itself: 13 s longer with the default of 10 s.
        "master.electionTimeout": "1s",
        # 64 GB in files of 1 GB that are made when needed; the default is 8 files of 30 GB.
        "volume.max": 64,
        "master.volumeSizeLimitMB": 1024,
        "volume.preStopSeconds": 0,
    }
    if tls is not None:
        options |= {"s3.cert.file": tls.server, "s3.key.file": tls.server_key}
    return Command(
        name="seaweedfs",
        argv=(
            weed_executable(),
            "-logtostderr=true",
            "server",
            *(f"-{name}={value}" for name, value in options.items()),
        ),
        environment={
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
            # It reads filer.toml and security.toml from the working and the home folder: not the ones of the user.
            "HOME": str(folder),
        },
        folder=folder,
        stop_grace_s=STOP_GRACE_S,
    )


def remove_sockets(ports: Mapping[str, int]) -> None:
    """Remove the sockets that SeaweedFS leaves behind; where they lie is fixed in its code."""
    services = {"master": "weed_master_grpc", "volume": "weed_volume_grpc", "filer": "weed_filer_grpc", "s3": "s3_grpc"}
    for service, name in services.items():
        if name in ports:
            Path(f"/tmp/seaweedfs-{service}-grpc-{ports[name]}.sock").unlink(missing_ok=True)  # noqa: S108 - see above
