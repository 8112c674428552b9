"""Who is at the other end of a TLS connection, told to the app: uvicorn itself does not."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Annotated, Any, Final

from cryptography import x509
from fastapi import Depends, Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import UnauthorizedError
from server.trust.authority import serial_of

if TYPE_CHECKING:
    from server.trust.paths import TrustPaths

PEER: Final = "shoal.peer_certificate"  # in the extensions of the ASGI scope: DER, or None


class PeerProtocol(HttpToolsProtocol):
    """Puts the certificate that the TLS layer has verified into the scope of each request."""

    def on_message_begin(self) -> None:
        """A request begins; uvicorn has just made its scope."""
        super().on_message_begin()
        tls = self.transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        extensions: dict[str, Any] = self.scope.setdefault("extensions", {})
        extensions[PEER] = certificate


def tls_options(paths: TrustPaths) -> dict[str, Any]:
    """What uvicorn needs for TLS, by the files of a trust folder.

    A client may show a certificate, and one that is shown must be of our authority and in time; whether it was taken
    back, the database says for each request.
    """
    return {
        "http": PeerProtocol,
        "ssl_certfile": str(paths.server),
        "ssl_keyfile": str(paths.server_key),
        "ssl_ca_certs": str(paths.authorities),
        "ssl_cert_reqs": ssl.CERT_OPTIONAL,
    }


def serial_of_peer(request: Request) -> str:
    """The serial number of the certificate that the caller has shown.

    Raises:
        UnauthorizedError: none.
    """
    content = request.scope.get("extensions", {}).get(PEER)
    if content is None:
        raise UnauthorizedError("A device shows its certificate here, over TLS.")
    return serial_of(x509.load_der_x509_certificate(content))


PeerSerial = Annotated[str, Depends(serial_of_peer)]
