"""What a device that asks is answered: from the database, from S3, and only what its desired state entitles it to."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import sqlalchemy as sa

from edge_agent.protocol import bitmap
from edge_agent.protocol.messages import Ask, AskKind, Reply, ReplyStatus
from edge_agent.protocol.topics import MAX_PAYLOAD_BYTES, DeviceTopic
from server.database.tables import devices
from server.errors import (
    DatabaseUnavailableError,
    DigestMismatchError,
    NotFoundError,
    ObjectNotFoundError,
    RegistryError,
    StorageRefusedError,
    StorageUnavailableError,
)
from server.fleet.entitlements import desired_of, not_yours, object_of
from server.fleet.manifests import ManifestCache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.protocol.manifest import ObjectDescriptor
    from server.database.connect import Database
    from server.delivery.sender import BlockSender
    from server.fleet.manifests import KnownManifest
    from server.storage import ObjectStore

log = logging.getLogger(__name__)

RETRY_S = 2.0
DETAIL_CHARACTERS = 512
# what stands in a reply beside the manifest, and what JSON adds when it quotes one
MANIFEST_BYTES = MAX_PAYLOAD_BYTES[DeviceTopic.REPLY] * 3 // 4


class DeviceGoneError(RegistryError):
    """The device was retired."""

    code = "device_removed"


class Answers:
    """Answers one question after the other; called by one thread."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        sender: BlockSender,
        *,
        presign_expiry_s: int,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._store = store
        self._sender = sender
        self._presign_expiry_s = presign_expiry_s
        self._clock = clock
        self._manifests = ManifestCache(store)
        self._store_away_until = 0.0

    def answer(self, device: str, ask: Ask) -> Reply:
        """The answer to a question; never raises for what a device can cause."""
        wait_s = self._sender.may_ask(device)
        if wait_s > 0.0:
            return _reply(ask, ReplyStatus.SLOW_DOWN, retry_after_s=wait_s)
        try:
            self._require_device(device)
            match ask.kind:
                case AskKind.DESIRED:
                    return _reply(ask, desired=desired_of(self._database, device))
                case AskKind.MANIFEST:
                    return self._manifest(device, ask)
                case AskKind.URL:
                    self._descriptor(device, ask.sha256)
                    url = self._store.presign_get(ask.sha256 or "", self._presign_expiry_s)
                    return _reply(ask, url=url)
                case AskKind.BLOCKS:
                    return self._blocks(device, ask)
        except (StorageUnavailableError, StorageRefusedError, DatabaseUnavailableError) as exc:
            log.warning("%s of %s can't be answered now: %s", ask.kind, device, exc)
            detail = "the registry can't reach its own store"
            return _reply(ask, ReplyStatus.UNAVAILABLE, retry_after_s=RETRY_S, detail=detail)
        except DeviceGoneError as exc:
            return _reply(ask, ReplyStatus.GONE, detail=str(exc))
        except (ObjectNotFoundError, NotFoundError, DigestMismatchError) as exc:
            return _reply(ask, ReplyStatus.NOT_FOUND, detail=str(exc))

    def _require_device(self, device: str) -> None:
        query = sa.select(devices.c.removed_at).where(devices.c.device_id == device)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            # it joined another registry, or this one after the backup that it was restored from
            raise NotFoundError(f"No device {device} has joined this registry: join again with a new token.")
        if row.removed_at is not None:
            raise DeviceGoneError(f"Device {device} was retired in this registry: join again with a new token.")

    def _manifest(self, device: str, ask: Ask) -> Reply:
        wanted = {entry.manifest_sha256 for entry in desired_of(self._database, device).entries}
        if ask.sha256 is None or ask.sha256 not in wanted:
            raise not_yours(ask.sha256)
        text = self._read_manifest(ask.sha256).text
        if len(text) > MANIFEST_BYTES:
            raise NotFoundError(f"Manifest {ask.sha256} has {len(text)} bytes: too large for MQTT, fetch it by HTTPS.")
        return _reply(ask, manifest=text.decode())

    def _blocks(self, device: str, ask: Ask) -> Reply:
        descriptor = self._descriptor(device, ask.sha256)
        missing: Sequence[int] = range(descriptor.block_count)
        if ask.missing is not None:
            missing = bitmap.unpack(ask.missing, count=descriptor.block_count)
        if self._clock() < self._store_away_until:
            raise StorageUnavailableError("S3 did not answer a moment ago.")
        answer = self._sender.ask(device, descriptor, missing, listening=ask.listening)
        return _reply(
            ask,
            answer.status,
            blocks_sent=answer.blocks,
            first_pass=answer.first_pass,
            retry_after_s=answer.retry_after_s,
        )

    def _descriptor(self, device: str, sha256: str | None) -> ObjectDescriptor:
        """How an object travels that the device's desired state names."""
        return object_of(desired_of(self._database, device), sha256 or "", self._read_manifest)

    def _read_manifest(self, sha256: str) -> KnownManifest:
        if sha256 not in self._manifests and self._clock() < self._store_away_until:
            raise StorageUnavailableError("S3 did not answer a moment ago.")
        try:
            return self._manifests.read(sha256)
        except StorageUnavailableError:
            # one that waits for S3 must not make all the others wait: they are told at once
            self._store_away_until = self._clock() + RETRY_S
            raise


def _reply(ask: Ask, status: ReplyStatus = ReplyStatus.OK, *, detail: str = "", **fields: object) -> Reply:
    return Reply.model_validate(
        {
            "kind": ask.kind,
            "status": status,
            "sha256": ask.sha256,
            "detail": detail[:DETAIL_CHARACTERS],
            **fields,
        }
    )
