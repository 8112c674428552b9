"""The operator's webhook."""

from fastapi import APIRouter

from server.api.ports import PortsOf
from server.schemas.webhook import WebhookStatus
from server.webhook.deliveries import webhook_status
from server.webhook.receiver import shown_address

router = APIRouter(prefix="/v1/webhook", tags=["rollouts"])


@router.get("", operation_id="get_webhook")
def get_webhook(ports: PortsOf) -> WebhookStatus:
    """What was posted to it last, what waits, and when the next try comes."""
    url, secret = ports.settings.webhook_url, ports.settings.webhook_secret
    receiver = shown_address(url.get_secret_value()) if url is not None else ""
    return webhook_status(ports.catalogue, receiver=receiver, signed=bool(receiver and secret))
