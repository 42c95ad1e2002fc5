"""A TLS 1.2 server that asks for another handshake in the middle of the stream (RFC 5246).

Ours don't: another certificate would come under the same SocketInfo, and a write would have to wait
for what a read receives. The server is told so by a warning, and what it makes of that is its own
affair. With an `ssl_context` of the user's own the context decides.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers import HOST, WAIT, Call, ca_data, pattern, until

import tcpsock
from tcpsock._wire.platform import POLLOUT
from tcpsock._wire.wire import Wire
from tcpsock.testing import authority
from tests.hostile.outcomes import assert_says
from tests.hostile.tls_peer import (
    ALERT,
    APPLICATION,
    HANDSHAKE,
    WARNING,
    SealedPeer,
    alert,
    handshake_message,
)

LONG = bool(os.environ.get("TCPSOCK_LONG"))
V12 = ssl.TLSVersion.TLSv1_2
ONLY_TLS12 = pytest.mark.parametrize("version", [V12], ids=["tls12"])
HELLO_REQUEST = handshake_message(0)
NO_RENEGOTIATION = alert(100, WARNING)


@ONLY_TLS12
def test_O7_a_HelloRequest_is_refused_and_the_connection_goes_on(sealed) -> None:
    sock, peer = sealed()
    reader, writer = sock.streams()
    peer.send_sealed(b"before")
    peer.send_sealed(HELLO_REQUEST, kind=HANDSHAKE)
    peer.send_sealed(b"after")
    assert reader.read_exactly(11, timeout=WAIT) == b"beforeafter"
    assert peer.next_record() == (ALERT, NO_RENEGOTIATION)
    writer.write(b"ours")
    assert peer.next_record() == (APPLICATION, b"ours")


@ONLY_TLS12
@pytest.mark.timeout(180)
def test_O7_R3_a_storm_of_HelloRequests_in_the_middle_of_everything(sealed, background) -> None:
    """Both directions stay exact; the refusals stand between our records, never inside of one."""
    sock, peer = sealed(high_water_mark=10_007)
    reader, writer = sock.streams()
    rounds = 20_000 if LONG else 500
    ours = pattern(8_000_000)

    def storm() -> None:
        for n in range(rounds):
            asked = peer.sealed(HELLO_REQUEST, kind=HANDSHAKE)
            peer.send_raw(asked + peer.sealed(pattern(20, 20 * n)))

    storming = background(storm)
    read = background(reader.read_exactly, 20 * rounds, timeout=WAIT)
    write = background(writer.write, ours, timeout=WAIT)
    got, refusals = _data_and_refusals(peer, len(ours))
    write.result()
    storming.result()
    assert got == ours
    assert read.result() == pattern(20 * rounds)
    while not refusals:  # they may all come behind the data
        refusals += peer.next_record() == (ALERT, NO_RENEGOTIATION)


@ONLY_TLS12
def test_O7_a_HelloRequest_under_a_write_that_waits(sealed, background) -> None:
    """There is half a record of ours in the way of the refusal."""
    sock, peer = sealed()
    reader, writer = sock.streams()
    ours = pattern(20_000_000)
    write = background(writer.write, ours, timeout=WAIT).blocked()
    for n in range(50):
        peer.send_sealed(HELLO_REQUEST, kind=HANDSHAKE)
        peer.send_sealed(b"%04d" % n)
        assert reader.read_exactly(4, timeout=WAIT) == b"%04d" % n
    got, _ = _data_and_refusals(peer, len(ours))
    write.result()
    assert got == ours
    writer.write(b"on it goes")
    assert _data_and_refusals(peer, 10)[0] == b"on it goes"


def _data_and_refusals(peer: SealedPeer, size: int) -> tuple[bytes, int]:
    """So much of what we wrote, and how many refusals stood between; anything else fails."""
    data, refusals = bytearray(), 0
    while len(data) < size:
        kind, content = peer.next_record()
        if kind == APPLICATION:
            data += content
        else:
            assert (kind, content) == (ALERT, NO_RENEGOTIATION)
            refusals += 1
    return bytes(data), refusals


# A real server


class Server:
    """`openssl s_server`: what it is told it sends, and the line "r" makes it renegotiate."""

    def __init__(self, directory: Path) -> None:
        cert, key = authority().issue().write(directory)
        self._process = subprocess.Popen(
            [
                *("openssl", "s_server", "-tls1_2", "-accept", f"{HOST}:0"),
                *("-cert", cert, "-key", key),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        self.said = bytearray()
        self._listening = Call(self._listen)
        until(
            lambda: b"ACCEPT" in self.said and b"\n" in self.said.split(b"ACCEPT")[1], "it serves"
        )
        found = re.search(rb"ACCEPT .*:(\d+)", self.said)
        assert found
        self.address = f"{HOST}:{int(found[1])}"

    def tell(self, line: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + b"\n")

    def renegotiate(self) -> None:
        """Ask the client for a new handshake, once what was told before has been sent."""
        asked = self.said.count(b"SSL_do_handshake")
        self.tell(b"r")
        until(lambda: self.said.count(b"SSL_do_handshake") > asked, "it renegotiates")

    def _listen(self) -> None:
        assert self._process.stdout
        while data := self._process.stdout.read(1 << 16):
            self.said += data

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._listening.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that renegotiates when it is told to."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the Debian package openssl")
    server = Server(tmp_path)
    yield server
    server.close()


def _own_context() -> dict[str, Any]:
    """One that lets the server renegotiate, as Python's default does."""
    context = ssl.create_default_context(cadata=ca_data())
    assert not context.options & ssl.OP_NO_RENEGOTIATION
    return {"ssl_context": context}


def test_O7_a_server_that_insists_hangs_up_and_that_is_told(dial, server) -> None:
    """OpenSSL's servers take the refusal for a failure."""
    sock = dial(server.address)
    sock.opened.result(WAIT)
    reader, writer = sock.streams()
    writer.write(b"one\n")
    server.tell(b"two")
    assert reader.readline(timeout=WAIT) == b"two\n"
    server.tell(b"r")
    with pytest.raises(tcpsock.TlsError) as caught:
        reader.read(timeout=WAIT)
    assert_says(caught.value, "handshake failure")
    assert type(sock.closed.exception(WAIT)) is tcpsock.TlsError


def test_O7_an_own_context_may_renegotiate(dial, server) -> None:
    """Data before, between and behind comes in order, both ways."""
    sock = dial(server.address, tls=_own_context())
    sock.opened.result(WAIT)
    reader, writer = sock.streams()
    for n in range(200 if LONG else 10):
        server.tell(b"server %d" % n)
        assert reader.readline(timeout=WAIT) == b"server %d\n" % n
        server.renegotiate()
        writer.write(b"client %d\n" % n, timeout=WAIT)
        until(lambda n=n: b"client %d\n" % n in server.said, "it was received")
    lines = re.findall(rb"client (\d+)\n", server.said)
    assert lines == [b"%d" % n for n in range(len(lines))]


def test_O7_T13_a_write_does_not_wait_for_what_a_read_has_received(
    dial, server, monkeypatch, background
) -> None:
    """The write finds TLS in want of a message; the read takes that before the write can wait."""
    met = threading.Event()
    wait_to_send = Wire.wait_to_send

    def late(wire: Wire, events: int, *args: Any, **kwargs: Any) -> int:
        if not events & POLLOUT:
            _until_quiet(wire._fd)
            met.set()
        return wait_to_send(wire, events, *args, **kwargs)

    monkeypatch.setattr(Wire, "wait_to_send", late)
    sock = dial(server.address, tls=_own_context())
    sock.opened.result(WAIT)
    reader, writer = sock.streams()
    read = background(reader.readline, timeout=2 * WAIT).blocked()
    written = 0

    def write_on() -> None:
        nonlocal written
        while not met.is_set():
            writer.write(b"%08d\n" % written, timeout=WAIT)
            written += 1

    writing = background(write_on)
    while not met.is_set() and not writing.done():
        server.renegotiate()
    writing.result()
    until(lambda: b"%08d\n" % (written - 1) in server.said, "the last line was received")
    server.tell(b"end")
    assert read.result() == b"end\n"


@ONLY_TLS12
def test_O7_T13_with_an_own_context_a_server_may_never_answer(sealed, monkeypatch) -> None:
    """The write waits in peace, until its timeout; what was received before it is not lost."""
    waits = 0
    wait_to_send = Wire.wait_to_send

    def counted(wire: Wire, *args: Any, **kwargs: Any) -> int:
        nonlocal waits
        waits += 1
        return wait_to_send(wire, *args, **kwargs)

    monkeypatch.setattr(Wire, "wait_to_send", counted)
    sock, peer = sealed(tls=_own_context())
    reader, writer = sock.streams()
    peer.send_sealed(b"before")
    peer.send_sealed(HELLO_REQUEST, kind=HANDSHAKE)
    peer.send_sealed(b"after")
    assert reader.read_exactly(11, timeout=WAIT) == b"beforeafter"
    with pytest.raises(tcpsock.WriteTimeout):
        writer.write(b"never out", timeout=0.5)
    assert 1 <= waits < 200, "it spins"


def _until_quiet(fd: int) -> None:
    """Wait until nothing more is to be received: whoever reads has received it."""
    readable = select.poll()
    readable.register(fd, select.POLLIN)
    calm = 0

    def is_calm() -> bool:
        nonlocal calm
        calm = 0 if readable.poll(0) else calm + 1
        return calm > 30

    until(is_calm, "nothing comes")
