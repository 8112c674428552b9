"""MQTT 5 for registry processes: one connection, one selector, acknowledgements by hand. Knows no topic of ours."""

from server.mqtt.connection import BrokerConnection
from server.mqtt.messages import Incoming, Publication, Subscription, Will
from server.mqtt.pacing import Backoff, TokenBucket

__all__ = ["Backoff", "BrokerConnection", "Incoming", "Publication", "Subscription", "TokenBucket", "Will"]
