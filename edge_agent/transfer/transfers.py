"""Objects on their way to this device: block files, and who fills them: the broker's topics or HTTPS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_agent.backoff import Backoff
from edge_agent.deployments.events import Progress, TransferDone, TransferFailed
from edge_agent.protocol import bitmap, topics
from edge_agent.protocol.messages import Ask, AskKind, Reply
from edge_agent.protocol.states import Reason
from edge_agent.transfer.blocks import BlockFile, DiskFullError
from edge_agent.transfer.fetch import BlockFetch, FetchFailure
from edge_agent.transfer.http_fetch import HttpPass, PassEnded
from edge_agent.transfer.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_agent.link.asks import Asks
    from edge_agent.link.identity import Identity
    from edge_agent.link.inbox import Inbox
    from edge_agent.link.mqtt import MqttLink
    from edge_agent.link.tls import Tls
    from edge_agent.protocol.manifest import ObjectDescriptor
    from edge_agent.settings import AgentSettings

PASS_AGAIN = Backoff(first_s=1.0, cap_s=60.0)
FRUITLESS_PASSES = (
    8  # without one new block, of a device that is online: over two minutes, then the transfer has failed
)
TransferEvent = TransferDone | TransferFailed


@dataclass(slots=True)
class _Transfer:
    manifest_sha256: str
    blocks: BlockFile
    fetch: BlockFetch | None = None  # over MQTT
    http: HttpPass | None = None  # the pass under way, over HTTPS
    url: str | None = None  # presigned, and good when it was used last
    pass_at_s: float | None = None
    fruitless: int = 0
    new_in_pass: int = field(default=0)


class Transfers:
    """Every object that is being fetched.

    A device that is metered or limited never listens to the pass for all: it would pay for what it has already, at a
    pace that is not its own. It asks for itself, for no more at a time than its limit lets come in a second.
    """

    def __init__(
        self,
        settings: AgentSettings,
        *,
        identity: Identity,
        tls: Tls,
        link: MqttLink,
        asks: Asks,
        inbox: Inbox,
        over_https: bool,
        chance: Callable[[], float],
    ) -> None:
        self._settings, self._identity, self._link, self._asks = settings, identity, link, asks
        self._tls = tls
        self._inbox, self._over_https, self._chance = inbox, over_https, chance
        self._transfers: dict[str, _Transfer] = {}
        self._pace = Pace(settings.max_download_rate_bytes_s)
        self._shared = not (over_https or settings.metered or self._pace.limited)
        self.wrong_blocks = 0

    def start(self, folder: Path, manifest_sha256: str, descriptor: ObjectDescriptor, *, now_s: float) -> None:
        """Fetch an object, or what is missing of it. `tick` says how it ends.

        Raises:
            DiskFullError: there is no room for it.
        """
        sha256 = descriptor.sha256
        self.cancel(sha256)
        transfer = _Transfer(manifest_sha256, BlockFile(folder, descriptor))
        self._transfers[sha256] = transfer
        if transfer.blocks.complete:
            return
        if self._over_https:
            transfer.pass_at_s = now_s
            return
        settings = self._settings
        transfer.fetch = BlockFetch(
            now_s=now_s,
            listen_s=settings.first_pass_wait_s if self._shared else 0.0,
            quiet_s=settings.quiet_s,
            answer_s=settings.answer_s,
            chance=self._chance,
        )
        self._listen(sha256)

    def cancel(self, object_sha256: str) -> None:
        """Stop; what is on disk stays."""
        transfer = self._transfers.pop(object_sha256, None)
        if transfer is None:
            return
        self.wrong_blocks += transfer.blocks.wrong_blocks
        transfer.blocks.close()
        if transfer.http is not None:
            transfer.http.cancel()
        if transfer.fetch is not None and self._shared:
            self._link.unsubscribe(topics.broadcast_blocks(object_sha256))

    def close(self) -> None:
        """Keep what is there for the next start."""
        for sha256 in list(self._transfers):
            self.cancel(sha256)

    def connected(self, now_s: float) -> None:
        """The connection is new: listen again."""
        for sha256, transfer in self._transfers.items():
            if transfer.fetch is not None:
                self._listen(sha256)
                transfer.fetch.connected(now_s)
            elif transfer.pass_at_s is not None:
                wait_s = self._settings.quiet_s * self._chance()
                transfer.pass_at_s = min(transfer.pass_at_s, now_s + wait_s)

    def block(
        self, object_sha256: str, index: int, payload: bytes, *, now_s: float, private: bool = False
    ) -> TransferFailed | None:
        """A block has come, over whatever way; `private`: over MQTT, for this device alone."""
        transfer = self._transfers.get(object_sha256)
        if transfer is None:
            return None
        wrong_before = transfer.blocks.wrong_blocks
        try:
            new = transfer.blocks.write(index, payload)
        except DiskFullError as exc:
            return self._failed(object_sha256, FetchFailure(Reason.DISK_FULL, str(exc)))
        except OSError as exc:  # a card that fails: this transfer ends, the agent and what it serves do not
            return self._failed(object_sha256, FetchFailure(Reason.INTERNAL, f"the disk failed: {exc.strerror}"))
        transfer.new_in_pass += new
        if transfer.fetch is not None:
            self._pace.charge(len(payload), now_s)
            wrong = transfer.blocks.wrong_blocks > wrong_before
            transfer.fetch.block_arrived(now_s, new=new, wrong=wrong, private=private)
        return None

    def answered(self, object_sha256: str, reply: Reply, *, now_s: float) -> None:
        """The registry has answered a question for blocks."""
        transfer = self._transfers.get(object_sha256)
        if transfer is not None and transfer.fetch is not None:
            transfer.fetch.answered(now_s, reply)

    def pass_ended(self, ended: PassEnded, *, now_s: float) -> TransferFailed | None:
        """An HTTPS pass is over."""
        transfer = self._transfers.get(ended.object_sha256)
        if transfer is None:
            return None
        transfer.http, transfer.url = None, ended.url
        if ended.reason is not None:
            return self._failed(ended.object_sha256, FetchFailure(ended.reason, ended.detail, again=False))
        # without a network it is nobody's fault: the last try is never reached
        last = FRUITLESS_PASSES - (not self._asks.connected)
        transfer.fruitless = 0 if transfer.new_in_pass else min(transfer.fruitless + 1, last)
        if transfer.fruitless >= FRUITLESS_PASSES:
            detail = (
                ended.detail or f"the store's blocks are not those of the manifest ({transfer.blocks.wrong_blocks})"
            )
            return self._failed(ended.object_sha256, FetchFailure(Reason.TRANSFER_FAILED, detail))
        transfer.new_in_pass = 0
        wait_s = ended.retry_after_s * (1.0 + self._chance())
        transfer.pass_at_s = now_s + max(wait_s, PASS_AGAIN.delay_s(transfer.fruitless + 1, self._chance()))
        return None

    def tick(self, now_s: float) -> list[TransferEvent]:
        """Ask, begin passes, and tell what is over."""
        over: list[TransferEvent] = []
        for sha256, transfer in list(self._transfers.items()):
            if transfer.blocks.complete:
                received = transfer.blocks.received_bytes
                self.cancel(sha256)
                over.append(TransferDone(sha256, received))
            elif transfer.fetch is not None:
                over += self._drive(sha256, transfer, transfer.fetch, now_s)
            elif transfer.pass_at_s is not None and now_s >= transfer.pass_at_s:
                self._begin_pass(transfer)
        return over

    def progress(self) -> dict[str, Progress]:
        """How far each is, by the sha256 of its manifest."""
        return {
            transfer.manifest_sha256: Progress(transfer.blocks.done_bytes, transfer.blocks.received_bytes)
            for transfer in self._transfers.values()
        }

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._transfers)

    def _listen(self, sha256: str) -> None:
        if self._shared:
            self._link.subscribe(topics.broadcast_blocks(sha256), qos=0)

    def _begin_pass(self, transfer: _Transfer) -> None:
        transfer.pass_at_s = None
        transfer.http = HttpPass(
            self._identity,
            transfer.blocks.descriptor,
            transfer.blocks.missing(),
            tls=self._tls,
            inbox=self._inbox,
            pace=self._pace,
            url=transfer.url,
        )
        transfer.http.start()

    def _drive(self, sha256: str, transfer: _Transfer, fetch: BlockFetch, now_s: float) -> list[TransferEvent]:
        due = self._asks.connected and fetch.due(now_s)
        if fetch.failure is not None:
            return [self._failed(sha256, fetch.failure)]
        if due and not self._pace.wait_s(now_s):
            missing = bitmap.pack(self._wanted(transfer.blocks), count=transfer.blocks.descriptor.block_count)
            self._asks.send(Ask(kind=AskKind.BLOCKS, sha256=sha256, missing=missing, listening=self._shared))
            fetch.asked(now_s)
        return []

    def _wanted(self, blocks: BlockFile) -> list[int]:
        """The blocks to ask for now: one at least, however low the limit."""
        missing, at_once_bytes = blocks.missing(), self._pace.at_once_bytes
        return missing if at_once_bytes is None else missing[: max(1, at_once_bytes // blocks.descriptor.block_bytes)]

    def _failed(self, sha256: str, failure: FetchFailure) -> TransferFailed:
        received = self._transfers[sha256].blocks.received_bytes
        self.cancel(sha256)
        return TransferFailed(sha256, failure.reason, failure.detail, received, again=failure.again)
