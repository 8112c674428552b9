"""The embedded Mosquitto: its configuration, with every limit set on purpose, and its command."""

import getpass
import os
import shutil
import signal
from pathlib import Path
from typing import Final

from server.stack.commands import Command
from server.stack.errors import MosquittoMissingError
from server.trust.paths import TrustPaths

STOP_GRACE_S: Final = 2.0
# Debian keeps daemons where the PATH of an ordinary user does not look.
SEARCH_PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))

# Measured on Mosquitto 2.0.11, whose defaults are named in each comment.
CONFIGURATION: Final = """\
# Written by `edge-registry up` at each start: changes made here are lost.
{listener}
user {user}
pid_file {folder}/mosquitto.pid

# Retained messages and the queues of sessions survive a restart. The default writes them every 1800 s: after kill -9
# an acknowledged retained message was gone. The registry's database owns the truth, so 30 s is comfort, not a promise.
persistence true
persistence_location {folder}/
persistence_file mosquitto.db
autosave_interval 30
autosave_on_changes false

# Per client, and the default of 1000 messages is too few for ourselves: of 5,000 reports sent faster than one ingest
# took them 224 were acknowledged and dropped, and a whole fleet that reconnects sends three messages per device. The
# number counts QoS 0 blocks for a slow device too (bytes do not): 4,000 blocks of 64 KiB for one client that stopped
# reading took 254 MB, so that the object's size, not this limit, bounds what a slow device costs; blocks are paced.
# Nothing counts on the queue all the same: a device asks again, and sends telemetry until it is committed.
max_queued_messages 10000
max_queued_bytes 33554432
queue_qos0_messages false

# The default of 20 makes ingest wait a round trip for every 20 reports; each client lowers this to what it wants.
max_inflight_messages 1000

# The largest message of ours is a block of 1 MiB with its topic and properties; the default is 256 MB.
max_packet_size 1114112

# A session outlives the time that a device usually is away; after that it asks anew (the default keeps it for ever).
persistent_client_expiration 14d
retain_available true
max_keepalive 1200
# Small messages are not held back to fill a packet: a desired state should arrive now.
set_tcp_nodelay true
sys_interval 10

log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages false
log_timestamp_format %Y-%m-%dT%H:%M:%S
"""

# Nobody without a certificate of our authority; who has one is called as it says, whatever name and client id it gives
# (two of one name are one client: a device can take over no other's session). Read again on SIGHUP, the revoked ones
# too: seen in 2.0.11, which keeps no connection that is there from going on, so who is revoked stands in the access
# list as well.
LISTENER: Final = """\
listener {port} {address}
cafile {paths.authorities}
certfile {paths.server}
keyfile {paths.server_key}
crlfile {paths.revoked}
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file {paths.access}
"""


def secure_listener(*, address: str, port: int, paths: TrustPaths) -> str:
    """The lines of a listener for whoever has a certificate of this registry."""
    return LISTENER.format(address=address, port=port, paths=paths)


def mosquitto_executable() -> str:
    """Where Mosquitto is.

    Raises:
        MosquittoMissingError: nowhere; says how to install it.
    """
    found = shutil.which("mosquitto", path=SEARCH_PATH)
    if found is None:
        raise MosquittoMissingError
    return found


def broker_command(folder: Path, *, listener: str) -> Command:
    """Write the configuration into `folder` and give the command that runs a broker with it.

    Args:
        folder: the broker's own.
        listener: where it listens, and for whom: `secure_listener`.

    Raises:
        MosquittoMissingError: Mosquitto is not installed.
    """
    executable = mosquitto_executable()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "mosquitto.conf"
    # Started as root, Mosquitto would become the user `mosquitto`, who cannot write into our data folder.
    text = CONFIGURATION.format(listener=listener, folder=folder, user=getpass.getuser())
    path.write_text(text, "utf-8")
    return Command(
        name="mosquitto",
        argv=(executable, "-c", str(path)),
        stop_grace_s=STOP_GRACE_S,
        # It ends at once, and writes what it retains on the way; SIGKILL would lose up to 30 s of it.
        death_signal=signal.SIGTERM,
    )
