"""The internal authority: who is believed, by whom, and what lies on the disk."""

from __future__ import annotations

import hashlib
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from everpost.net import tls


@pytest.fixture(scope="module")
def authority() -> tls.Authority:
    return tls.create_authority("Contoso")


def host(folder: Path, authority: tls.Authority, name: str, *addresses: str) -> Path:
    key = tls.new_key()
    tls.save_host(folder, key, authority.sign(key.public_key(), name, addresses or ["127.0.0.1"]), authority.pem)
    return folder


def meet(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "127.0.0.1") -> dict[str, object]:
    """A handshake and one word each way; what the server saw of the client's certificate. Raises ssl.SSLError."""
    ours, theirs = socket.socketpair()
    seen: dict[str, object] = {}
    errors: list[Exception] = []

    def answer() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as connection:
                seen.update(connection.getpeercert() or {})
                connection.sendall(connection.recv(5))
        except OSError as error:
            errors.append(error)
            theirs.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        ours.settimeout(10)
        with client.wrap_socket(ours, server_hostname=name) as connection:
            connection.sendall(b"hello")
            if connection.recv(5) != b"hello":
                raise ssl.SSLError("the server hung up")
    finally:
        ours.close()
        thread.join(10)
    if errors:
        raise errors[0]
    return seen


def test_two_hosts_of_one_authority_believe_each_other(authority: tls.Authority, tmp_path: Path) -> None:
    one, two = host(tmp_path / "1", authority, "EX01"), host(tmp_path / "2", authority, "EX02")
    server = tls.server_context(one, client_certificates=ssl.CERT_REQUIRED)
    seen = meet(server, tls.client_context(two))
    assert ("commonName", "EX02") in [part for parts in seen["subject"] for part in parts]  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["no certificate", "client of another", "server of another", "another address"])
def test_nobody_else_is_believed(authority: tls.Authority, tmp_path: Path, how: str) -> None:
    ours = host(tmp_path / "ours", authority, "EX01")
    foreign = host(tmp_path / "foreign", tls.create_authority("Contoso"), "EX01")
    server = tls.server_context(ours, client_certificates=ssl.CERT_REQUIRED)
    client = tls.client_context(ours)
    name = "127.0.0.1"
    if how == "no certificate":
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.load_verify_locations(ours / "ca.crt")
    elif how == "client of another":
        client = tls.client_context(foreign)
        client.load_verify_locations(ours / "ca.crt")
    elif how == "server of another":
        server = tls.server_context(foreign)
    else:
        name = "10.77.0.99"
    with pytest.raises(OSError):
        meet(server, client, name)


def test_mail_clients_need_no_certificate(authority: tls.Authority, tmp_path: Path) -> None:
    ours = host(tmp_path, authority, "EX01")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(ours / "ca.crt")
    assert meet(tls.server_context(ours), client) == {}


def test_a_certificate_serves_both_ends_and_names_its_places(authority: tls.Authority) -> None:
    key = tls.new_key()
    pem = authority.sign(key.public_key(), "EX01", ["10.77.0.11", "10.78.0.11", "fd00::11"], ["mail.contoso.com"])
    certificate = x509.load_pem_x509_certificate(pem)
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    places = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(one) for one in places.get_values_for_type(x509.IPAddress)} == {"10.77.0.11", "10.78.0.11", "fd00::11"}
    assert places.get_values_for_type(x509.DNSName) == ["EX01", "mail.contoso.com"]
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_the_authority_forces_the_name(authority: tls.Authority) -> None:
    key = tls.new_key()
    asked = tls.request(key, "EX01-in-truth-a-stranger")
    certificate = x509.load_pem_x509_certificate(authority.sign(tls.requested_key(asked), "EX07", ["10.77.0.17"]))
    assert [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["EX07"]
    assert certificate.public_key() == key.public_key()


def test_a_request_that_its_key_did_not_sign_is_refused() -> None:
    der = bytearray(x509.load_pem_x509_csr(tls.request(tls.new_key(), "EX01")).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(ValueError):
        tls.requested_key(broken)
    with pytest.raises(ValueError):
        tls.requested_key(b"nothing of the kind")


def test_keys_are_private_even_over_an_older_file(authority: tls.Authority, tmp_path: Path) -> None:
    (tmp_path / "host.key").write_text("old")
    (tmp_path / "host.key").chmod(0o644)
    host(tmp_path, authority, "EX01")
    authority.save(tmp_path)
    for name in ("host.key", "ca.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.crt", "ca.key", "host.crt", "host.key"]


def test_an_authority_that_was_loaded_signs_as_before(authority: tls.Authority, tmp_path: Path) -> None:
    authority.save(tmp_path)
    again = tls.Authority.load(tmp_path)
    assert again.pem == authority.pem
    ours = host(tmp_path / "1", authority, "EX01")
    later = host(tmp_path / "2", again, "EX02")
    meet(tls.server_context(ours, client_certificates=ssl.CERT_REQUIRED), tls.client_context(later))


def test_the_fingerprint_is_of_the_der(authority: tls.Authority) -> None:
    der = authority.certificate.public_bytes(serialization.Encoding.DER)
    assert tls.fingerprint(authority.pem) == hashlib.sha256(der).hexdigest()
