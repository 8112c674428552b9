"""TLS of this device: it trusts its registry's root and nobody else, and shows its own certificate.

By the standard library alone. Files are read at each connection: a renewed certificate is used from the next one on.
"""

from __future__ import annotations

import ssl
import urllib.parse
from typing import TYPE_CHECKING

from edge_agent.errors import EdgeAgentError
from edge_agent.link import identity as identities

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.layout import Layout
    from edge_agent.link.identity import Credential


class CredentialsUnusableError(EdgeAgentError):
    """The root's or the device's own certificate can't be read."""

    code = "credentials_unusable"


def root_context(root: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with whoever has a certificate of this root for the name that is asked for.

    Raises:
        CredentialsUnusableError: there is no such file, or no certificate in it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and knows no public authority
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(root)
    except (OSError, ssl.SSLError) as exc:
        raise CredentialsUnusableError(f"{root} can't be read as a certificate: restore it, or enroll anew") from exc
    return context


def client_context(layout: Layout, credential: Credential) -> ssl.SSLContext:
    """The same, showing a certificate of this device.

    Raises:
        CredentialsUnusableError: one of the files can't be read.
    """
    context, path = root_context(layout.root_certificate), layout.credential(credential.file)
    try:
        context.load_cert_chain(path)
    except (OSError, ssl.SSLError) as exc:
        raise CredentialsUnusableError(f"{path} can't be read as key and certificate: enroll this device anew") from exc
    return context


class Tls:
    """What this device's connections need, as its files say at the moment."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def own(self) -> ssl.SSLContext:
        """For the broker and the API.

        Raises:
            CredentialsUnusableError: this device has no certificate, or it can't be read.
        """
        identity = identities.load(self._layout)
        if identity is None or identity.credential is None:
            raise CredentialsUnusableError(f"{self._layout.identity} names no certificate: enroll this device")
        return client_context(self._layout, identity.credential)

    def registry(self, url: str) -> ssl.SSLContext | None:
        """For an address of the API; None: it speaks no TLS."""
        return self.own() if urllib.parse.urlsplit(url).scheme == "https" else None

    def objects(self, url: str) -> ssl.SSLContext | None:
        """For an address that the API has given: its own store, or one that public authorities vouch for.

        What comes from there is verified block by block, whoever sent it.
        """
        if urllib.parse.urlsplit(url).scheme != "https":
            return None
        context = ssl.create_default_context()
        context.load_verify_locations(self._layout.root_certificate)
        return context
