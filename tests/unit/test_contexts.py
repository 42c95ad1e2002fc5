"""tcpsock._wire.contexts: what a context trusts and shows, and when two connections share one."""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tcpsock._errors import TlsError
from tcpsock._options import TlsOptions
from tcpsock._wire import contexts
from tcpsock._wire.contexts import checked_at_call, client_context

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
HOST = "server.example"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings from outside, and no context from the test before."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    contexts._entries.clear()
    yield
    contexts._entries.clear()
    gc.collect()  # a context with a key log holds its file open


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def stranger() -> trustme.CA:
    """An authority that nobody trusts."""
    return trustme.CA()


@pytest.fixture
def roots(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(path)
    return path


def server_context(authority: trustme.CA, name: str = HOST) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str = HOST) -> ssl.SSLSocket:
    """The client's end of a finished handshake over a socket pair; its error, if it fails."""
    near, far = socket.socketpair()
    served: list[object] = []

    def serve() -> None:
        try:
            with server.wrap_socket(far, server_side=True) as accepted:
                accepted.recv(1)
                served.append(accepted.getpeercert(binary_form=True))
        except OSError as error:
            served.append(error)
        finally:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        secured = client.wrap_socket(near, server_hostname=name)
        secured.sendall(b"!")
        return secured
    finally:
        near.close()
        thread.join()


def trusts(client: ssl.SSLContext, authority: trustme.CA) -> bool:
    try:
        handshake(client, server_context(authority)).close()
    except ssl.SSLCertVerificationError:
        return False
    return True


def run_python(*arguments: str, **environment: str) -> str:
    """What a fresh interpreter prints; it starts in the project's root."""
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


# How it is built


@pytest.mark.parametrize("trust", ["certifi", "system"])
def test_O7_contexts_are_explicit(trust: Any) -> None:
    """The same on every Python, whatever its default context is like."""
    context = client_context(TlsOptions(trust=trust))
    assert context.protocol == ssl.PROTOCOL_TLS_CLIENT
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname is True
    assert context.hostname_checks_common_name is False
    assert context.verify_flags == (
        ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    )
    assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).options
    assert context.options | ssl.OP_IGNORE_UNEXPECTED_EOF == plain | ssl.OP_IGNORE_UNEXPECTED_EOF


def test_O7_the_default_trusts_certifi() -> None:
    """certifi's roots, all of them."""
    certifi = pytest.importorskip("certifi")
    expected = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    expected.load_verify_locations(certifi.where())
    assert client_context(TlsOptions()).get_ca_certs(True) == expected.get_ca_certs(True)


def test_K2_certifi_is_imported_late(roots: Path) -> None:
    """Neither the import nor a context with roots of its own needs certifi."""
    script = (
        "import sys; from tcpsock._options import TlsOptions; from tcpsock._wire import contexts\n"
        "contexts.client_context(TlsOptions(ca_file=sys.argv[1]))\n"
        "print('certifi' in sys.modules)\n"
        "contexts.client_context(TlsOptions())\n"
        "print('certifi' in sys.modules)\n"
    )
    assert run_python("-c", script, str(roots)).split() == ["False", "True"]


def test_O7_minimum_version_is_held(authority: trustme.CA, roots: Path) -> None:
    """TLS 1.3 at least means that a TLS 1.2 server is refused."""
    server = server_context(authority)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    with handshake(client_context(TlsOptions(ca_file=roots)), server) as secured:
        assert secured.version() == "TLSv1.2"
    newer = TlsOptions(ca_file=roots, minimum_version=ssl.TLSVersion.TLSv1_3)
    with pytest.raises(ssl.SSLError):
        handshake(client_context(newer), server)


def test_O7_alpn_is_offered_in_order(authority: trustme.CA, roots: Path) -> None:
    """The protocols go out as given; the server chooses."""
    server = server_context(authority)
    server.set_alpn_protocols(["http/1.1"])
    client = client_context(TlsOptions(ca_file=roots, alpn=["h2", "http/1.1"]))
    with handshake(client, server) as secured:
        assert secured.selected_alpn_protocol() == "http/1.1"


def test_O7_the_name_is_verified(authority: trustme.CA, roots: Path) -> None:
    """A trusted certificate for another name is refused."""
    client = client_context(TlsOptions(ca_file=roots))
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        handshake(client, server_context(authority, "other.example"))


def test_A4_an_own_context_is_used_as_it_is() -> None:
    """It comes back itself, and nothing about it changes."""
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    own.check_hostname = False
    own.verify_mode = ssl.CERT_NONE
    before = (own.options, own.verify_flags, own.minimum_version)
    assert client_context(TlsOptions(ssl_context=own)) is own
    assert (own.options, own.verify_flags, own.minimum_version) == before
    assert own.verify_mode == ssl.CERT_NONE


# Roots


def forms_of_roots(authority: trustme.CA, directory: Path) -> dict[str, TlsOptions]:
    pem = authority.cert_pem.bytes()
    commented = "# \u0150 root\n".encode() + pem + "# \u2713\n".encode("utf-16")
    path = directory / "form.pem"
    path.write_bytes(commented)
    return {
        "ca_file": TlsOptions(ca_file=str(path)),
        "path-like ca_file": TlsOptions(ca_file=path),
        "PEM text": TlsOptions(ca_data=pem.decode()),
        "PEM text with comments": TlsOptions(ca_data="\u0150 root\n" + pem.decode()),
        "PEM bytes": TlsOptions(ca_data=commented),
        "DER": TlsOptions(ca_data=ssl.PEM_cert_to_DER_cert(pem.decode())),
    }


@pytest.mark.parametrize("form", forms_of_roots(trustme.CA(), Path(os.devnull).parent / "shm"))
def test_A4_roots_in_every_form(
    form: str, authority: trustme.CA, stranger: trustme.CA, tmp_path: Path
) -> None:
    """Exactly these roots are trusted: nobody else's, and certifi's neither."""
    context = client_context(forms_of_roots(authority, tmp_path)[form])
    assert len(context.get_ca_certs()) == 1
    assert trusts(context, authority)
    assert not trusts(context, stranger)
