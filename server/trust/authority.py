"""Keys and certificates, made in memory: a root, one intermediate below it, and what the intermediate issues.

Pure: nothing here reads a file or the clock. EC P-256 with SHA-256 throughout, by `cryptography`. The root signs one
thing, the intermediate, so that its key may lie in a safe; whoever holds the intermediate's can issue until the root
signs another. What a certificate may be used for stands in it (RFC 5280, extended key usage): a device's is for
clients alone, so that a device can't pass for the broker or the API.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from server.trust.names import is_device_name, role_of

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY_S: Final = 86_400.0
ROOT_DAYS: Final = 20 * 365
INTERMEDIATE_DAYS: Final = 10 * 365
SERVER_DAYS: Final = 365
# A device whose clock is a little behind must not find its registry's certificate to be of the future.
BACKDATED_S: Final = DAY_S
_CLIENT, _SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def key_pem(self) -> bytes:
        """The key, unencrypted: who writes it keeps others from reading it."""
        kind = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())


def pem_of(*certificates: x509.Certificate) -> bytes:
    """Certificates, one after the other."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 of the whole certificate, in hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def serial_of(certificate: x509.Certificate) -> str:
    """The serial number as it is kept and shown: hexadecimal, without a sign."""
    return f"{certificate.serial_number:x}"


def public_key_sha256(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the public key (SubjectPublicKeyInfo): the same through all certificates of one key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(serialization.Encoding.DER, form))
    return digest.finalize().hex()


def make_root(registry: str, *, now: float) -> KeyPair:
    """A root of its own for each registry; `registry` is shown in its name."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name(f"Shoal root {registry}"[:64])
    certificate = (
        _builder(name, name, key.public_key(), now=now, days=ROOT_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(certificate, key)


def make_intermediate(root: KeyPair, *, now: float) -> KeyPair:
    """The authority that works day by day: it can issue for holders, and for no further authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name(f"Shoal issuer {key_name(key)}")
    certificate = (
        _builder(name, root.certificate.subject, key.public_key(), now=now, days=INTERMEDIATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_issued_by(root.certificate), critical=False)
        .sign(root.key, hashes.SHA256())
    )
    return KeyPair(certificate, key)


def key_name(key: ec.EllipticCurvePrivateKey) -> str:
    """A few characters that tell keys apart for people."""
    return public_key_sha256(key.public_key())[:12]


@dataclass(frozen=True, slots=True)
class Authority:
    """What issues: the intermediate with its key, and the root's certificate."""

    root: x509.Certificate
    intermediate: KeyPair

    def issue_device(
        self, public_key: ec.EllipticCurvePublicKey, device_id: str, *, now: float, days: float
    ) -> x509.Certificate:
        """A certificate that says: who holds this key is the device.

        Raises:
            ValueError: no device can be called so; a caller that lets it come this far has a bug.
        """
        if not is_device_name(device_id):
            raise ValueError(f"{device_id[:64]!r} is no device id")
        return self._issue(public_key, device_id, now=now, days=days, purposes=(_CLIENT,), names=())

    def issue_service(self, name: str, *, now: float) -> KeyPair:
        """Key and certificate with which a process of the registry connects to the broker.

        Raises:
            ValueError: no process is called so.
        """
        if role_of(name) is None:
            raise ValueError(f"{name[:64]!r} is no process of a registry")
        return self._new(name, now=now, purposes=(_CLIENT,), names=())

    def issue_server(self, names: Sequence[str], *, now: float) -> KeyPair:
        """Key and certificate for API, broker and S3, reached under these host names and addresses."""
        return self._new("registry", now=now, purposes=(_SERVER,), names=names)

    @property
    def chain(self) -> bytes:
        """What goes behind an issued certificate, so that who knows the root alone can follow."""
        return pem_of(self.intermediate.certificate)

    def _new(
        self, common_name: str, *, now: float, purposes: Sequence[x509.ObjectIdentifier], names: Sequence[str]
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._issue(
            key.public_key(), common_name, now=now, days=SERVER_DAYS, purposes=purposes, names=names
        )
        return KeyPair(certificate, key)

    def _issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        common_name: str,
        *,
        now: float,
        days: float,
        purposes: Sequence[x509.ObjectIdentifier],
        names: Sequence[str],
    ) -> x509.Certificate:
        issuer = self.intermediate.certificate
        builder = (
            _builder(_common_name(common_name), issuer.subject, public_key, now=now, days=days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(_issued_by(issuer), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
        return builder.sign(self.intermediate.key, hashes.SHA256())


def names_of(certificate: x509.Certificate) -> set[str]:
    """The host names and addresses that a server's certificate is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = {str(one) for one in found.get_values_for_type(x509.IPAddress)}
    return addresses | set(found.get_values_for_type(x509.DNSName))


def is_due(certificate: x509.Certificate, *, now: float) -> bool:
    """Whether two thirds of its life are over: time to issue another."""
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return now > end - (end - begin) / 3


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, *, now: float, days: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now - BACKDATED_S))
        .not_valid_after(_time(now + days * DAY_S))
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _issued_by(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)


def _alternatives(names: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys(name.strip("[]") for name in names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name.encode("idna").decode() if not name.isascii() else name))
    return found


def _time(unix_s: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(unix_s, dt.UTC)
