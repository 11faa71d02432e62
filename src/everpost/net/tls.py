"""The organisation's own certificate authority, and the TLS contexts made from what it signed.

Every host has one certificate, used as server and as client alike (etcd's peers do both), with its addresses and its
name. Keys are EC P-256, 0600.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
HOST_DAYS = 825


class Authority:
    """The key and certificate that sign hosts."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self.certificate = certificate

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def sign(
        self, public_key: ec.EllipticCurvePublicKey, name: str, addresses: Sequence[str], names: Sequence[str] = ()
    ) -> bytes:
        """A host certificate in PEM: common name `name`, valid for its addresses, `name`, and `names`."""
        now = datetime.now(UTC)
        places = {ipaddress.ip_address(address) for address in addresses}
        if any(place.is_loopback for place in places):
            # A loopback lab: whoever is called by 127.0.77.11 answers, but calls others from 127.0.0.1, and etcd
            # checks a peer's certificate against the address it calls from.
            places.add(ipaddress.ip_address("127.0.0.1"))
        alternatives: list[x509.GeneralName] = [x509.IPAddress(place) for place in sorted(places, key=str)]
        alternatives += [x509.DNSName(one) for one in dict.fromkeys((name, *names)) if one]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=HOST_DAYS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def save(self, folder: Path) -> None:
        """ca.key (0600) and ca.crt."""
        _write(folder / "ca.key", private_pem(self._key), 0o600)
        _write(folder / "ca.crt", self.pem, 0o644)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """From ca.key and ca.crt."""
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(key, x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes()))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh private key."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 without a password."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    """Durably: a host whose one-time token is spent must find its key again after a power cut."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    beside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def create_authority(organization: str) -> Authority:
    """A new authority for an organisation."""
    key = new_key()
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(f"{organization} Everpost authority"))
        .issuer_name(_name(f"{organization} Everpost authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate)


def request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """A signing request in PEM."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_name(name))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def requested_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request whose signature is right. Raises ValueError."""
    asked = x509.load_pem_x509_csr(pem)
    key = asked.public_key()
    if not asked.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the signing request is not signed by its own key")
    return key


def save_host(folder: Path, key: ec.EllipticCurvePrivateKey, certificate: bytes, authority: bytes) -> None:
    """host.key (0600), host.crt and ca.crt."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(folder / "host.key", private_pem(key), 0o600)
    _write(folder / "host.crt", certificate, 0o644)
    _write(folder / "ca.crt", authority, 0o644)


def fingerprint(pem: bytes) -> str:
    """SHA-256 of a certificate's DER, in hex."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()


def server_context(folder: Path, *, client_certificates: ssl.VerifyMode = ssl.CERT_NONE) -> ssl.SSLContext:
    """For a listener; CERT_REQUIRED between our own parts, CERT_NONE for mail clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(folder / "host.crt", folder / "host.key")
    context.load_verify_locations(folder / "ca.crt")
    context.verify_mode = client_certificates
    return context


def client_context(folder: Path) -> ssl.SSLContext:
    """For calls between our own parts: shows our certificate, believes only our authority, checks the address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(folder / "host.crt", folder / "host.key")
    context.load_verify_locations(folder / "ca.crt")
    return context
