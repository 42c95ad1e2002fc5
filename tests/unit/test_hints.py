"""D7: the first mistakes are answered."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

import tcpsock


@pytest.fixture
def sock() -> Iterator[tcpsock.Socket]:
    ours, theirs = socket.socketpair()
    with theirs, tcpsock.adopt(ours, close_timeout=0) as adopted:
        yield adopted


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("getReader", "get_reader()"),
        ("startTls", "start_tls()"),
        ("recv", "Reader.read()"),
        ("send", "Writer.write()"),
        ("sendall", "Writer.write()"),
        ("settimeout", "timeout="),
        ("makefile", "as_file()"),
        ("readexactly", "read_exactly()"),
        ("readuntil", "read_until()"),
        ("drain", "Writer.write()"),
    ],
)
def test_D7_a_name_from_elsewhere_is_an_AttributeError_that_names_ours(
    sock: tcpsock.Socket, name: str, ours: str
) -> None:
    reader, writer = sock.streams()
    for owner in (sock, sock.readable, sock.writable, reader, writer):
        with pytest.raises(AttributeError) as caught:
            getattr(owner, name)
        assert ours in str(caught.value)
        assert caught.value.name == name
        assert not hasattr(owner, name)


def test_D7_any_other_name_is_an_ordinary_AttributeError(sock: tcpsock.Socket) -> None:
    with pytest.raises(AttributeError) as caught:
        _ = sock.nonsense  # type: ignore[attr-defined]
    assert str(caught.value) == "'Socket' object has no attribute 'nonsense'"
