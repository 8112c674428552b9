"""What is taken for a certificate request, and what is refused by name."""

import datetime as dt
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from server.trust.authority import Authority, make_intermediate, make_root, names_of, public_key_sha256
from server.trust.errors import BadRequestError
from server.trust.names import Role, is_device_name, role_of, service_name
from server.trust.requests import MAX_REQUEST_BYTES, public_key_of

NOW = 1_800_000_000.0


def request_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *names: str) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def authority() -> Authority:
    root = make_root("test", now=NOW)
    return Authority(root.certificate, make_intermediate(root, now=NOW))


@pytest.mark.parametrize(("names", "device_id"), [((), None), ((), "dev-1"), (("dev-1",), "dev-1")])
def test_request_of_the_asking_device_gives_its_key(
    key: ec.EllipticCurvePrivateKey, names: tuple[str, ...], device_id: str | None
) -> None:
    found = public_key_of(request_of(key, *names), device_id=device_id)
    assert public_key_sha256(found) == public_key_sha256(key.public_key())


@pytest.mark.parametrize(
    ("names", "device_id"),
    [(("dev-2",), "dev-1"), (("dev-2",), None), (("dev-1", "dev-2"), "dev-1"), (("registry:ingest",), "dev-1")],
)
def test_request_naming_somebody_else_is_refused(
    key: ec.EllipticCurvePrivateKey, names: tuple[str, ...], device_id: str | None
) -> None:
    with pytest.raises(BadRequestError, match="names somebody else"):
        public_key_of(request_of(key, *names), device_id=device_id)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "\0" * 100,
        "-----BEGIN CERTIFICATE REQUEST-----\n" + "é" * 50,
    ],
)
def test_request_that_is_garbage_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError, match="can't be read"):
        public_key_of(text, device_id=None)


def test_request_that_is_huge_is_refused_unread(key: ec.EllipticCurvePrivateKey) -> None:
    padded = request_of(key) + "#" * MAX_REQUEST_BYTES
    with pytest.raises(BadRequestError, match="at most 4096"):
        public_key_of(padded, device_id=None)


@pytest.mark.parametrize(
    "weak",
    [
        pytest.param(lambda: rsa.generate_private_key(public_exponent=65537, key_size=1024), id="rsa-1024"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP192R1()), id="p-192"),
    ],
)
def test_request_with_a_weak_key_is_refused(
    weak: Callable[[], ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey],
) -> None:
    with pytest.raises(BadRequestError, match="not EC P-256"):
        public_key_of(request_of(weak()), device_id=None)


def test_request_with_an_ed25519_key_is_refused() -> None:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    text = request.sign(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(BadRequestError, match="not EC P-256"):
        public_key_of(text, device_id=None)


def test_request_signed_by_another_key_is_refused(key: ec.EllipticCurvePrivateKey) -> None:
    mine = x509.load_pem_x509_csr(request_of(key).encode())
    der = bytearray(mine.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1  # the last byte of the signature
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(BadRequestError, match=r"not signed by its own key|can't be read"):
        public_key_of(forged, device_id=None)


def test_request_asking_to_be_an_authority_gets_a_device_certificate(
    key: ec.EllipticCurvePrivateKey, authority: Authority
) -> None:
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public_key = public_key_of(request.public_bytes(serialization.Encoding.PEM).decode(), device_id=None)
    issued = authority.issue_device(public_key, "dev-1", now=NOW, days=30)
    assert issued.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert names_of(issued) == set()
    uses = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [one.dotted_string for one in uses] == ["1.3.6.1.5.5.7.3.2"]  # clientAuth
    assert issued.not_valid_after_utc == dt.datetime.fromtimestamp(NOW + 30 * 86_400, dt.UTC)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../registry", "a/b", "+", "#", "a+", "registry:ingest", "a\n", "a\0", "x" * 64, "x" * 65_536, "é"],
)
def test_authority_names_no_device_so(key: ec.EllipticCurvePrivateKey, authority: Authority, name: str) -> None:
    assert not is_device_name(name)
    with pytest.raises(ValueError, match="no device id"):
        authority.issue_device(key.public_key(), name, now=NOW, days=30)


@pytest.mark.parametrize("name", ["dev-1", "ingest", "registry", "registry:root", "registry:ingest:a/b", "registry:"])
def test_authority_names_no_process_so(authority: Authority, name: str) -> None:
    assert role_of(name) is None
    with pytest.raises(ValueError, match="no process"):
        authority.issue_service(name, now=NOW)


def test_every_process_name_is_no_device_name() -> None:
    for role in Role:
        assert not is_device_name(service_name(role, "two"))
