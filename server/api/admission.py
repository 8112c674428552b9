"""The second lock: what runs is the operation that the gate let in, and nothing runs without the gate."""

from fastapi import Request

from server.audit.trail import Asker
from server.errors import RegistryError


class NotAdmittedError(RegistryError):
    """A route that the gate did not let in: a fault of ours, and nobody gets anything."""

    code = "internal"


def admitted(request: Request) -> None:
    """Refuse whatever the gate took for another operation.

    Raises:
        NotAdmittedError: it did, or there was no gate.
    """
    operation = getattr(request.scope.get("route"), "operation_id", None)
    asker = getattr(request.state, "asker", None)
    if not isinstance(asker, Asker) or not operation or asker.operation != operation:
        raise NotAdmittedError(f"{operation} was reached as {asker.operation if asker else 'nothing'}.")


def asker_of(request: Request) -> Asker:
    """Who asks, as the gate knows them."""
    asker: Asker = request.state.asker
    return asker
