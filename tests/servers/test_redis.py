"""Redis over TLS: pipelines, and an end without close_notify."""

from __future__ import annotations

from launch import Server

import tcpsock
from examples import redis_pipeline as example
from tcpsock import TlsOptions


def options(server: Server) -> TlsOptions:
    return TlsOptions(ca_data=server.ca_data, allow_truncation=True)


def test_pipeline(redis_server: Server) -> None:
    """The answers come in order, each of its own kind."""
    commands = [
        ("SET", "greeting", b"hello\r\n\0world"),
        ("GET", "greeting"),
        ("GET", "nothing"),
        ("INCR", "visits"),
        ("INCR", "visits"),
        ("RPUSH", "list", "a", "b"),
        ("LRANGE", "list", 0, -1),
    ]
    replies = example.pipeline(redis_server.tls_address, *commands, tls=options(redis_server))
    assert replies == ["OK", b"hello\r\n\0world", None, 1, 2, 2, [b"a", b"b"]]


def test_an_error_stays_in_its_place(redis_server: Server) -> None:
    """One command's failure is not the pipeline's."""
    commands = [("SET", "word", "x"), ("INCR", "word"), ("GET", "word")]
    first, error, last = example.pipeline(
        redis_server.tls_address, *commands, tls=options(redis_server)
    )
    assert (first, last) == ("OK", b"x")
    assert isinstance(error, example.RedisError) and "not an integer" in str(error)


def test_R1_a_pipeline_larger_than_every_buffer(redis_server: Server) -> None:
    """20 MB of questions and as many of answers, all written before the first is read."""
    value = bytes(range(256)) * 8
    commands = [("ECHO", value)] * 10_000
    replies = example.pipeline(redis_server.tls_address, *commands, tls=options(redis_server))
    assert replies == [value] * 10_000


def test_E3_quit_ends_the_connection(redis_server: Server) -> None:
    """Its answer, then the end, whether this release sends a close_notify or not."""
    with tcpsock.connect(
        redis_server.tls_address, secure_transport="on", tls=options(redis_server), timeout=30
    ) as sock:
        reader, writer = sock.streams()
        writer.write(example.encode("QUIT"))
        assert reader.readline() == b"+OK\r\n"
        assert reader.read() == b""
        assert sock.closed.result(30) is None
