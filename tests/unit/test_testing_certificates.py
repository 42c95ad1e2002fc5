"""Certificates and contexts for tests, good and bad."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
from raw_clients import TLS_VERSIONS, dial, echo, read_exactly, secure

from tcpsock import testing
from tcpsock.testing import Authority, authority, serve, server_context

# certificates and contexts


@pytest.mark.parametrize("hostname", ["localhost", "127.0.0.1", "::1"])
def test_tls_true_is_valid_for_loopback(hostname: str) -> None:
    with (
        serve(echo, tls=True) as server,
        secure(dial(server.address), ca_data=server.ca_data, hostname=hostname) as client,
    ):
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
    assert server.errors == []


@TLS_VERSIONS
def test_the_version_can_be_chosen(version: ssl.TLSVersion) -> None:
    for context in (server_context(maximum=version), server_context(minimum=version)):
        with serve(echo, tls=context) as server, secure(dial(server.address)) as client:
            assert context.maximum_version == version or client.version() == "TLSv1.3"


def test_an_outdated_server_can_be_had() -> None:
    with serve(echo, tls=server_context(maximum=ssl.TLSVersion.TLSv1_1)) as server:
        with (
            dial(server.address) as sock,
            pytest.raises(ssl.SSLError, match=r"(?i)version|protocol"),
        ):
            secure(sock)
        server.wait()
    assert isinstance(server.errors[0], ssl.SSLError)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: authority().issue(validity="expired"), "has expired"),
        (lambda: authority().issue(validity="future"), "not yet valid"),
        (lambda: authority().issue("wrong.example"), "Hostname mismatch"),
        (lambda: Authority().issue(), "unable to get local issuer"),
    ],
    ids=["expired", "future", "wrong host", "unknown CA"],
)
def test_bad_certificates(make: Callable[[], testing.Certificate], message: str) -> None:
    with serve(echo, tls=server_context(make())) as server:
        with (
            dial(server.address) as sock,
            pytest.raises(ssl.SSLCertVerificationError, match=message),
        ):
            secure(sock)
        server.wait()
    assert len(server.errors) == 1


def test_an_intermediate_authority_sends_its_chain() -> None:
    with (
        serve(echo, tls=server_context(Authority(authority()).issue())) as server,
        secure(dial(server.address)) as client,
    ):
        client.sendall(b"x")
        assert client.recv(1) == b"x"


def test_client_certificates() -> None:
    seen = []

    def handler(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        certificate = sock.getpeercert()
        assert certificate is not None
        seen.append(certificate["subjectAltName"])
        sock.sendall(b"welcome")

    with serve(handler, tls=server_context(client_ca=authority().ca_data)) as server:
        mine = authority().issue("me@example.org")
        with secure(dial(server.address), certificate=mine) as client:
            assert read_exactly(client, 7) == b"welcome"
        with secure(dial(server.address)) as client, pytest.raises(OSError):
            client.sendall(b"x")
            client.recv(1)
        server.wait()
    assert seen == [(("email", "me@example.org"),)]
    assert len(server.errors) == 1


def test_alpn() -> None:
    with (
        serve(echo, tls=server_context(alpn=["b", "a"])) as server,
        secure(dial(server.address), alpn=["a", "b"]) as client,
    ):
        assert client.selected_alpn_protocol() == "b"


def test_a_certificate_can_be_written(tmp_path: os.PathLike[str]) -> None:
    chain, key = authority().issue("me@example.org").write(tmp_path)
    assert os.stat(key).st_mode & 0o777 == 0o600
    ssl.create_default_context().load_cert_chain(chain, key)
    assert "PRIVATE" not in repr(authority().issue())


def test_there_is_one_authority_however_many_ask_at_once() -> None:
    program = """
        import threading
        from tcpsock.testing import authority
        found = []
        threads = [threading.Thread(target=lambda: found.append(authority())) for _ in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert len(found) == 8 and len(set(found)) == 1
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
