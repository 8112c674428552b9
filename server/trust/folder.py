"""The folder in which a registry's keys and certificates lie: made once, readable by its owner alone.

What is missing or about to run out is issued here; nothing else of the registry writes into it. The root's key is read
only to sign an intermediate and may lie elsewhere.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.durable import replace_file
from server.trust.authority import (
    Authority,
    KeyPair,
    fingerprint_of,
    is_due,
    make_intermediate,
    make_root,
    names_of,
    pem_of,
)
from server.trust.errors import TrustError
from server.trust.names import Role, service_name
from server.trust.paths import TrustPaths
from server.trust.revocations import access_list, revocation_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

PRIVATE_FOLDER: Final = 0o700


class TrustFolder:
    """One registry's keys and certificates on disk."""

    def __init__(self, folder: Path) -> None:
        self.paths = TrustPaths(folder)

    @property
    def exists(self) -> bool:
        """Whether an authority was made here."""
        return self.paths.intermediate.exists()

    def make(self, registry: str, *, now: float, root_elsewhere: Path | None = None) -> str:
        """Make root and intermediate; the root's fingerprint.

        Args:
            registry: shown in the root's name.
            now: seconds since 1970.
            root_elsewhere: a folder for the root's key; None: it stays here.

        Raises:
            TrustError: there is an authority already, or a folder can't be written.
        """
        paths = self.paths
        try:
            _make_private(paths.folder)
            with self._locked():
                if self.exists:
                    raise TrustError(
                        f"{paths.folder} has an authority already: its devices trust it, so it is not made anew."
                    )
                root = make_root(registry, now=now)
                intermediate = make_intermediate(root, now=now)
                key_folder = root_elsewhere or paths.folder
                _make_private(key_folder)
                if (key_folder / paths.root_key.name).exists():
                    raise TrustError(
                        f"{key_folder / paths.root_key.name} is there already, perhaps of another registry."
                    )
                replace_file(key_folder / paths.root_key.name, root.key_pem)
                replace_file(paths.root, pem_of(root.certificate))
                replace_file(paths.intermediate_key, intermediate.key_pem)
                # last: where this file is, all are
                replace_file(paths.intermediate, pem_of(intermediate.certificate))
        except OSError as exc:
            raise TrustError(f"{exc.filename or paths.folder} can't be written: {exc.strerror}.") from exc
        return fingerprint_of(root.certificate)

    def authority(self) -> Authority:
        """What issues certificates here.

        Raises:
            TrustError: it was never made, is damaged, or others can read its key.
        """
        root = _certificate(self.paths.root)
        return Authority(root, _pair(self.paths.intermediate, self.paths.intermediate_key))

    def root_pem(self) -> bytes:
        """The root's certificate.

        Raises:
            TrustError: there is none.
        """
        return pem_of(_certificate(self.paths.root))

    def root_fingerprint(self) -> str:
        """SHA-256 of the root's certificate.

        Raises:
            TrustError: there is none.
        """
        return fingerprint_of(_certificate(self.paths.root))

    def keep_current(self, *, host_names: Iterable[str], now: float) -> bool:
        """Issue what the processes of one machine need, where it is missing, due, or for other names.

        Returns:
            Whether something was issued: who uses it must read it again.

        Raises:
            TrustError: there is no authority, or a file can't be written.
        """
        authority, wanted = self.authority(), sorted({name.strip("[]") for name in host_names})
        try:
            with self._locked():
                _make_private(self.paths.services)
                _make_private(self.paths.broker)
                changed = self._keep_server(authority, wanted, now)
                for role in Role:
                    changed |= self._keep_service(authority, service_name(role), now)
                self._write_once(self.paths.authorities, pem_of(authority.root, authority.intermediate.certificate))
                self._write_once(self.paths.share, secrets.token_hex(16).encode())
                if not self.paths.revoked.exists():
                    self._write_lists(authority, {}, (), now)
        except OSError as exc:
            raise TrustError(f"{exc.filename or self.paths.folder} can't be written: {exc.strerror}.") from exc
        return changed

    def keep_service(self, role: Role, instance: str, *, now: float) -> None:
        """Issue what one more process of a role needs, if it has nothing yet; it may connect once the broker knows.

        Raises:
            TrustError: there is no authority, or a file can't be written.
            ValueError: the instance can't stand in a name.
        """
        authority = self.authority()
        with self._locked():
            if self._keep_service(authority, service_name(role, instance), now):
                denied = _denied_in(self.paths.access)
                replace_file(self.paths.access, access_list(self._services(), denied).encode())

    def tell_broker(self, revoked: Mapping[str, float], denied: Iterable[str], *, now: float) -> None:
        """Write both lists anew, where they say something else than before.

        Args:
            revoked: serial number -> when.
            denied: devices that have no certificate that counts.
            now: seconds since 1970.

        Raises:
            TrustError: there is no authority, or a file can't be written.
        """
        try:
            with self._locked():
                self._write_lists(self.authority(), revoked, denied, now)
        except OSError as exc:
            raise TrustError(f"{exc.filename or self.paths.folder} can't be written: {exc.strerror}.") from exc

    def _write_lists(
        self, authority: Authority, revoked: Mapping[str, float], denied: Iterable[str], now: float
    ) -> None:
        if not self.paths.revoked.exists() or _revoked_in(self.paths.revoked) != {int(one, 16) for one in revoked}:
            replace_file(self.paths.revoked, revocation_list(authority, revoked, now=now))
        text = access_list(self._services(), denied).encode()
        if not self.paths.access.exists() or self.paths.access.read_bytes() != text:
            replace_file(self.paths.access, text)

    def _keep_server(self, authority: Authority, wanted: list[str], now: float) -> bool:
        path = self.paths.server
        if path.exists() and self.paths.server_key.exists():
            present = _certificate(path)
            if names_of(present) == set(wanted) and not is_due(present, now=now) and _is_from(present, authority):
                return False
        pair = authority.issue_server(wanted, now=now)
        # Mosquitto and SeaweedFS want them apart; a reader between the two writes finds a pair that does not fit, and
        # is started again
        replace_file(self.paths.server_key, pair.key_pem)
        replace_file(path, pem_of(pair.certificate) + authority.chain)
        return True

    def _keep_service(self, authority: Authority, name: str, now: float) -> bool:
        path = self.paths.service(name)
        if path.exists():
            present = _certificate(path)
            if not is_due(present, now=now) and _is_from(present, authority):
                return False
        pair = authority.issue_service(name, now=now)
        replace_file(path, pair.key_pem + pem_of(pair.certificate) + authority.chain)
        return True

    def _services(self) -> list[str]:
        return [self.paths.name_of(path) for path in self.paths.services.glob("*.pem")]

    @staticmethod
    def _write_once(path: Path, content: bytes) -> None:
        if not path.exists():
            replace_file(path, content)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.paths.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _make_private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    folder.chmod(PRIVATE_FOLDER)


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError as exc:
        raise TrustError(f"{path} is missing: make an authority with `edge-registry init`, or restore it.") from exc
    except OSError as exc:
        raise TrustError(f"{path} can't be read: {exc.strerror}.") from exc
    except ValueError as exc:
        raise TrustError(f"{path} is damaged: restore it from a backup.") from exc


def _pair(certificate_path: Path, key_path: Path) -> KeyPair:
    certificate = _certificate(certificate_path)
    try:
        mode = key_path.stat().st_mode
        content = key_path.read_bytes()
    except OSError as exc:
        raise TrustError(f"{key_path} can't be read: {exc.strerror}.") from exc
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise TrustError(f"Others can read {key_path}: `chmod 600` it, and ask yourself who has read it.")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as exc:
        raise TrustError(f"{key_path} is damaged: restore it from a backup.") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise TrustError(f"{key_path} is not the key of {certificate_path}: restore both from one backup.")
    return KeyPair(certificate, key)


def _is_from(certificate: x509.Certificate, authority: Authority) -> bool:
    return certificate.issuer == authority.intermediate.certificate.subject


def _revoked_in(path: Path) -> set[int]:
    try:
        return {one.serial_number for one in x509.load_pem_x509_crl(path.read_bytes())}
    except ValueError:  # damaged: written anew
        return {-1}


def _denied_in(path: Path) -> list[str]:
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    pairs = itertools.pairwise(lines)
    return [user.removeprefix("user ") for user, rule in pairs if rule == "topic deny #"]
