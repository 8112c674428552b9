"""Which ports the stack uses: chosen once, kept for ever, because devices remember them."""

import random
import socket
from collections.abc import Iterable, Mapping
from typing import Final

from server.stack.errors import PortTakenError

# Below the usual ephemeral range (32768-60999): an outgoing connection cannot sit on our port when we come back.
FIRST_PORT: Final = 20_000
LAST_PORT: Final = 32_000
LOOPBACK: Final = "127.0.0.1"


def is_free(port: int, addresses: Iterable[str]) -> bool:
    """Whether a server could listen on the port at each of the addresses."""
    return all(_can_listen(port, address) for address in addresses)


def choose_ports(
    names: Iterable[str], *, fixed: Mapping[str, int], addresses: Iterable[str], chance: random.Random
) -> dict[str, int]:
    """Give each name its fixed port, or a free one that no other name has.

    Raises:
        PortTakenError: a fixed port is in use, or no free one is left.
    """
    where = set(addresses)
    ports: dict[str, int] = {}
    for name in names:
        port = fixed.get(name)
        if port is None:
            taken = {*ports.values(), *fixed.values()}
            candidates = (chance.randint(FIRST_PORT, LAST_PORT) for _ in range(1000))
            port = next((one for one in candidates if one not in taken and is_free(one, where)), None)
            if port is None:
                raise PortTakenError(
                    f"No free port between {FIRST_PORT} and {LAST_PORT} on {', '.join(sorted(where))}."
                )
        elif not is_free(port, where):
            raise PortTakenError(
                f"Port {port} for {name} on {', '.join(sorted(where))} cannot be used: another program has it, or the "
                "address is not one of this machine; free it, or change --host or --api-port."
            )
        ports[name] = port
    return ports


def _can_listen(port: int, address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections of our last run that linger in TIME_WAIT are no obstacle, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError:
            return False
    return True
