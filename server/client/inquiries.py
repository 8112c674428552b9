"""The routes of questions to devices, as methods of the client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from edge_agent.protocol.inquiry import LogTail
from server.client.errors import RegistryClientError
from server.client.outages import through_outages
from server.client.transport import segment
from server.schemas.inquiries import InquiryState, InquiryView

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.client.transport import Transport
    from server.schemas.inquiries import InquiryForm

POLL_S: Final = 0.3
_VIEW: Final = TypeAdapter(InquiryView)
_LOG: Final = TypeAdapter(LogTail)


class InquiryCalls:
    """A part of `RegistryClient`."""

    _transport: Transport

    def ask_device(self, device_id: str, form: InquiryForm) -> InquiryView:
        """Ask a device for its log or a diagnosis; `wait_for_answer` says when it has answered."""
        path = f"/v1/devices/{segment(device_id, 'the device')}/inquiries"
        return self._transport.ask("POST", path, json=form.model_dump(mode="json"), answer=_VIEW)

    def get_inquiry(self, inquiry_id: str) -> InquiryView:
        """Where a question stands."""
        return self._transport.ask("GET", f"/v1/inquiries/{segment(inquiry_id, 'the inquiry')}", answer=_VIEW)

    def wait_for_answer(self, inquiry_id: str, *, progress: Callable[[InquiryView], None] | None = None) -> InquiryView:
        """Wait until a device has answered, refused, or the question is out of time.

        Raises:
            RegistryClientError: it refuses (`refused`), or has not answered in time (`timeout`).
        """
        while True:
            view = through_outages(lambda: self.get_inquiry(inquiry_id))
            if progress is not None:
                progress(view)
            if view.state is InquiryState.ANSWERED:
                return view
            if view.state is InquiryState.REFUSED:
                raise RegistryClientError("refused", f"Device {view.device_id} refuses: {view.detail}.")
            if view.state is InquiryState.EXPIRED:
                raise RegistryClientError("timeout", view.detail)
            time.sleep(POLL_S)

    def get_device_log(self, inquiry_id: str) -> LogTail:
        """The lines that a device has answered."""
        return self._transport.ask("GET", f"/v1/inquiries/{segment(inquiry_id, 'the inquiry')}/log", answer=_LOG)

    def get_bundle(self, inquiry_id: str) -> bytes:
        """The diagnostic bundle, a .tar.gz: what the device says, if it has answered, and what the registry knows."""
        return self._transport.raw("GET", f"/v1/inquiries/{segment(inquiry_id, 'the inquiry')}/bundle")
