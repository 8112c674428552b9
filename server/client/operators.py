"""The routes of operators and of the audit log, as methods of the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from server.audit.chain import ChainCheck
from server.client.checking import checked
from server.client.transport import given, segment
from server.schemas.audit import AuditEntry
from server.schemas.operators import (
    VALID_S,
    OperatorRequest,
    OperatorToken,
    OperatorView,
    Role,
    RotationRequest,
    WhoAmI,
)

if TYPE_CHECKING:
    from server.client.transport import Transport

_WHO: Final = TypeAdapter(WhoAmI)
_TOKEN: Final = TypeAdapter(OperatorToken)
_OPERATORS: Final = TypeAdapter(list[OperatorView])
_ENTRIES: Final = TypeAdapter(list[AuditEntry])


class OperatorCalls:
    """A part of `RegistryClient`."""

    _transport: Transport

    def whoami(self) -> WhoAmI:
        """Who asks, and what they may do."""
        return self._transport.ask("GET", "/v1/whoami", answer=_WHO)

    def add_operator(self, name: str, role: Role | str, *, valid_s: float = VALID_S) -> OperatorToken:
        """Make an operator; the token is shown this once."""
        body = checked(OperatorRequest, {"name": name, "role": role, "valid_s": valid_s}).model_dump(mode="json")
        return self._transport.ask("POST", "/v1/operators", json=body, answer=_TOKEN)

    def list_operators(self) -> list[OperatorView]:
        """All operators without their tokens."""
        return self._transport.ask("GET", "/v1/operators", answer=_OPERATORS)

    def rotate_operator(self, name: str, *, valid_s: float = VALID_S) -> OperatorToken:
        """Give an operator a new token; the present one ends at once."""
        body = checked(RotationRequest, {"valid_s": valid_s}).model_dump(mode="json")
        return self._transport.ask("POST", f"{_path(name)}/rotation", json=body, answer=_TOKEN)

    def revoke_operator(self, name: str) -> None:
        """Make an operator's token worthless, at once."""
        self._transport.ask("DELETE", _path(name))

    # --- the audit log
    def read_audit(self, *, after: int = 0, since: float | None = None, newest: int | None = None) -> list[AuditEntry]:
        """Rows in their order, at most 1,000 at once; `after`: the number of the last one that is known."""
        parameters = given({"after": after, "since": since, "newest": newest})
        return self._transport.ask("GET", "/v1/audit", params=parameters, answer=_ENTRIES)

    def verify_audit(self, *, head: tuple[int, str] | None = None) -> tuple[ChainCheck, bool]:
        """Read all rows and look at the chain here: the registry's word is not taken for it.

        Args:
            head: the number and the hash of a row, as they were noted earlier.

        Returns:
            The chain, and whether the noted row is in it (true without one).
        """
        check, found = ChainCheck(), head is None
        last = 0
        while entries := self.read_audit(after=last):
            check.take(entries)
            if head is not None:
                found = found or any((entry.sequence, entry.sha256) == head for entry in entries)
            last = entries[-1].sequence
            if check.broken is not None:
                break
        return check, found


def _path(name: str) -> str:
    return f"/v1/operators/{segment(name, 'the operator')}"
