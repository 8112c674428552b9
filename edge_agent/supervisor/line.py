"""Everything that talks with the registry, built in the order in which one part needs another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.layout import Layout
from edge_agent.link.asks import Asks
from edge_agent.link.connection import Connection
from edge_agent.link.mqtt import MqttLink, parse_url
from edge_agent.link.tls import Tls
from edge_agent.protocol.messages import encode
from edge_agent.protocol.topics import DeviceTopic, device_topic
from edge_agent.settings import Transport
from edge_agent.transfer.manifests import ManifestFetches
from edge_agent.transfer.transfers import Transfers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edge_agent.deployments.events import Event, Moment
    from edge_agent.link.identity import Identity
    from edge_agent.link.inbox import Inbox
    from edge_agent.protocol.inquiry import AnswerPart
    from edge_agent.protocol.profile import RuntimeName
    from edge_agent.settings import AgentSettings
    from edge_agent.storage.store import StateStore
    from edge_agent.storage.variants import VariantFolders
    from edge_agent.telemetry.spool import Spool

GOODBYE_S = 2.0


class Line:
    """The connection, the questions that are open on it, and the manifests and objects that come over it.

    Args:
        settings: how to talk, and over which transport to fetch.
        identity: who this device is, and where its registry is.
        inbox: what the threads of the network put into.
        store: counts the sessions.
        spool: what is to be reported.
        folders: where manifests are kept.
        runtimes: what presence says that this device can run.
        chance: uniform in [0, 1), for jitter.
    """

    def __init__(
        self,
        settings: AgentSettings,
        identity: Identity,
        *,
        inbox: Inbox,
        store: StateStore,
        spool: Spool,
        folders: VariantFolders,
        runtimes: Mapping[RuntimeName, str],
        chance: Callable[[], float],
    ) -> None:
        tls = Tls(Layout(settings.data_dir))
        self._link = link = MqttLink(
            parse_url(identity.mqtt_url),
            device_id=identity.device_id,
            key=identity.key,
            tls=tls.own,
            keepalive_s=settings.keepalive_s,
            session_expiry_s=settings.session_expiry_s,
            inbox=inbox,
        )
        self._answer_topic = device_topic(identity.device_id, DeviceTopic.ANSWER)
        self.asks = asks = Asks(link, identity.device_id)
        self.connection = Connection(
            settings,
            device_id=identity.device_id,
            link=link,
            asks=asks,
            store=store,
            spool=spool,
            runtimes=runtimes,
            chance=chance,
        )
        over_https = settings.transport is Transport.HTTPS
        self.manifests = ManifestFetches(
            folders=folders,
            asks=asks,
            identity=identity,
            tls=tls,
            inbox=inbox,
            over_https=over_https,
            answer_s=settings.answer_s,
            chance=chance,
        )
        self.transfers = Transfers(
            settings,
            identity=identity,
            tls=tls,
            link=link,
            asks=asks,
            inbox=inbox,
            over_https=over_https,
            chance=chance,
        )

    def start(self) -> None:
        """Let paho have its thread; `tick` connects."""
        self._link.start()

    def tick(self, moment: Moment) -> Sequence[Event]:
        """Do what is due now, and tell what has come of it."""
        self.connection.tick(moment)
        return [*self.manifests.tick(moment.now_s), *self.transfers.tick(moment.now_s)]

    def say_answer(self, part: AnswerPart) -> None:
        """Send a part of an answer to what the registry has asked."""
        self._link.publish(self._answer_topic, encode(part), qos=1)

    def close(self, moment: Moment) -> None:
        """Leave in good order; what still comes in is lost, and the transfers go on after the next start."""
        self.connection.say_goodbye(moment)
        self._link.close(timeout_s=GOODBYE_S)
        self.transfers.close()
