"""Getting manifests: from a kept copy, by asking over MQTT, or over HTTPS; verified by their own name."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edge_agent.backoff import Backoff
from edge_agent.deployments.events import ManifestArrived, ManifestFailed
from edge_agent.link import registry_http
from edge_agent.link.registry_http import RegistryRefusedError, RegistryUnreachableError
from edge_agent.protocol.base import PROTOCOL_VERSION
from edge_agent.protocol.manifest import VariantManifest
from edge_agent.protocol.messages import Ask, AskKind, Reply, ReplyStatus
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.states import Reason
from edge_agent.transfer.fetch import ASK_AGAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from edge_agent.link.asks import Asks
    from edge_agent.link.identity import Identity
    from edge_agent.link.inbox import Inbox
    from edge_agent.link.tls import Tls
    from edge_agent.storage.variants import VariantFolders

_GONE, _NOT_FOUND = 410, 404
HTTPS_AGAIN = Backoff(first_s=1.0, cap_s=60.0)
FRUITLESS_LIMIT = 8  # tries of a device that is online, after which the deployment has failed for now


@dataclass(frozen=True, slots=True)
class ManifestText:
    """A manifest's bytes as they came, or the reason why none came."""

    manifest_sha256: str
    text: bytes | None
    reason: Reason = Reason.NONE
    detail: str = ""
    passing: bool = False  # nobody answered, or the registry could not: asking again may help
    retry_after_s: float = 0.0


@dataclass(slots=True)
class _Waiting:
    ask_at_s: float | None  # None: an HTTPS request is under way
    fruitless: int = 0


def read_manifest(manifest_sha256: str, text: bytes) -> ManifestArrived | ManifestFailed:
    """Verify and parse a manifest. Pure."""
    if hashlib.sha256(text).hexdigest() != manifest_sha256:
        # whoever carried it may be to blame, so it is tried again
        return ManifestFailed(manifest_sha256, Reason.TRANSFER_FAILED, "the manifest's bytes do not have its sha256")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return ManifestFailed(manifest_sha256, Reason.MANIFEST_INVALID, "the manifest is not JSON")
    version = document.get("v") if isinstance(document, dict) else None
    if isinstance(version, int) and version > PROTOCOL_VERSION:
        detail = f"the manifest has version {version}, this agent reads {PROTOCOL_VERSION}"
        return ManifestFailed(manifest_sha256, Reason.UNSUPPORTED_VERSION, detail)
    if isinstance(document, dict) and (missing := _missing_runtime(document)):
        return ManifestFailed(manifest_sha256, Reason.RUNTIME_MISSING, missing)
    try:
        return ManifestArrived(manifest_sha256, VariantManifest.model_validate_json(text))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return ManifestFailed(manifest_sha256, Reason.MANIFEST_INVALID, f"the manifest: {where}: {first['msg']}")


def _missing_runtime(document: dict[str, object]) -> str | None:
    """Why a variant for a runtime or delegate that came with a later agent can't run here."""
    for name, known in (("runtime", frozenset(map(str, RuntimeName))), ("delegate", frozenset(map(str, Delegate)))):
        value = document.get(name)
        if isinstance(value, str) and value not in known:
            return f"the variant wants the {name} {value[:32]!r}, which this agent does not know: install a newer agent"
    return None


class ManifestFetches:
    """The manifests that are wanted now."""

    def __init__(
        self,
        *,
        folders: VariantFolders,
        asks: Asks,
        identity: Identity,
        tls: Tls,
        inbox: Inbox,
        over_https: bool,
        answer_s: float,
        chance: Callable[[], float],
    ) -> None:
        self._folders, self._asks, self._identity, self._inbox = folders, asks, identity, inbox
        self._tls = tls
        self._over_https, self._answer_s, self._chance = over_https, answer_s, chance
        self._waiting: dict[str, _Waiting] = {}
        self._texts: dict[str, bytes] = {}

    def fetch(self, manifest_sha256: str, *, now_s: float) -> ManifestArrived | ManifestFailed | None:
        """Begin; the event when it is at hand."""
        kept = self._folders.cached_manifest(manifest_sha256)
        if kept is not None:
            event = read_manifest(manifest_sha256, kept)
            if isinstance(event, ManifestArrived):
                self._texts[manifest_sha256] = kept
                return event
        self._waiting[manifest_sha256] = waiting = _Waiting(ask_at_s=now_s)
        return self._ask(manifest_sha256, waiting, now_s)

    def text_of(self, manifest_sha256: str) -> bytes | None:
        """The bytes of a manifest that has arrived, until they are forgotten: a disk that was full takes them later."""
        return self._texts.get(manifest_sha256)

    def forget_texts(self, *, except_of: Container[str]) -> None:
        """Let go of the bytes of manifests whose variants are installed, or wanted no more."""
        for sha256 in [sha256 for sha256 in self._texts if sha256 not in except_of]:
            del self._texts[sha256]

    def tick(self, now_s: float) -> list[ManifestFailed]:
        """Ask for what is due, and tell what was asked for too often."""
        due = [(sha256, one) for sha256, one in self._waiting.items() if one.ask_at_s is not None]
        asked = [self._ask(sha256, one, now_s) for sha256, one in due if now_s >= (one.ask_at_s or 0.0)]
        return [failed for failed in asked if failed is not None]

    def connected(self, now_s: float) -> None:
        """The connection is new: what was asked before may be lost."""
        for waiting in self._waiting.values():
            if waiting.ask_at_s is not None:
                waiting.ask_at_s = now_s

    def answered(self, sha256: str, reply: Reply, *, now_s: float) -> ManifestArrived | ManifestFailed | None:
        """The registry has answered."""
        waiting = self._waiting.get(sha256)
        if waiting is None:
            return None
        if reply.status in (ReplyStatus.SLOW_DOWN, ReplyStatus.UNAVAILABLE):
            wait_s = max(reply.retry_after_s, ASK_AGAIN.delay_s(waiting.fruitless, self._chance()))
            waiting.ask_at_s = now_s + wait_s * (1.0 + self._chance())
            return None
        del self._waiting[sha256]
        if reply.status is ReplyStatus.OK and reply.manifest is not None:
            return self.arrived(ManifestText(sha256, reply.manifest.encode()), now_s=now_s)
        reason = Reason.OBJECT_GONE if reply.status is ReplyStatus.GONE else Reason.OBJECT_NOT_FOUND
        return ManifestFailed(sha256, reason, reply.detail or "the registry has no such manifest", again=False)

    def arrived(self, found: ManifestText, *, now_s: float) -> ManifestArrived | ManifestFailed | None:
        """What the network gave; None when it is asked again later."""
        waiting = self._waiting.pop(found.manifest_sha256, None)
        if found.passing and waiting is not None and waiting.fruitless < FRUITLESS_LIMIT:
            # without a network it is nobody's fault: the last try is never reached
            waiting.fruitless = min(waiting.fruitless + 1, FRUITLESS_LIMIT - (not self._asks.connected))
            wait_s = found.retry_after_s * (1.0 + self._chance())
            waiting.ask_at_s = now_s + max(wait_s, HTTPS_AGAIN.delay_s(waiting.fruitless, self._chance()))
            self._waiting[found.manifest_sha256] = waiting
            return None
        if found.text is None:
            return ManifestFailed(found.manifest_sha256, found.reason, found.detail, again=found.passing)
        event = read_manifest(found.manifest_sha256, found.text)
        if isinstance(event, ManifestArrived):
            self._texts[found.manifest_sha256] = found.text
        return event

    def _ask(self, sha256: str, waiting: _Waiting, now_s: float) -> ManifestFailed | None:
        if self._over_https:
            waiting.ask_at_s = None
            threading.Thread(target=self._fetch_https, args=(sha256,), name="manifest", daemon=True).start()
            return None
        if waiting.fruitless >= FRUITLESS_LIMIT:
            del self._waiting[sha256]
            detail = f"the registry has not sent the manifest, asked {FRUITLESS_LIMIT} times"
            return ManifestFailed(sha256, Reason.TRANSFER_FAILED, detail)
        if self._asks.send(Ask(kind=AskKind.MANIFEST, sha256=sha256)):
            waiting.fruitless += 1
        waiting.ask_at_s = now_s + self._answer_s + ASK_AGAIN.delay_s(waiting.fruitless, self._chance())
        return None

    def _fetch_https(self, sha256: str) -> None:
        url = f"{self._identity.registry_url}/v1/device/manifests/{sha256}"
        try:
            headers = {"Authorization": self._identity.authorization}
            answer = registry_http.request("GET", url, headers=headers, tls=self._tls.registry(url))
        except RegistryUnreachableError as exc:
            self._inbox.put(ManifestText(sha256, None, Reason.TRANSFER_FAILED, str(exc), passing=True))
        except RegistryRefusedError as exc:
            reasons = {_NOT_FOUND: Reason.OBJECT_NOT_FOUND, _GONE: Reason.OBJECT_GONE}
            reason = reasons.get(exc.status, Reason.TRANSFER_FAILED)
            passing, wait_s = registry_http.is_passing(exc.status), exc.retry_after_s
            self._inbox.put(ManifestText(sha256, None, reason, str(exc), passing=passing, retry_after_s=wait_s))
        except Exception as exc:  # noqa: BLE001  top of this thread: without a word from it nobody would ask again
            detail = f"{type(exc).__name__}: {exc}"
            self._inbox.put(ManifestText(sha256, None, Reason.TRANSFER_FAILED, detail, passing=True))
        else:
            self._inbox.put(ManifestText(sha256, answer.body))
