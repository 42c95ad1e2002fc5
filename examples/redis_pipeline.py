"""Pipeline commands to Redis over TLS: all of them go out at once, then all answers come back.

    python examples/redis_pipeline.py             with a stand-in that it starts itself
    python examples/redis_pipeline.py HOST:PORT   a real one's TLS port

An environment variable SSL_CERT_FILE names the roots to trust, if they are not the public ones.
The protocol is RESP: each part begins with a byte that tells its kind, and ends with CR LF.
"""

from __future__ import annotations

import sys
from typing import Union

from tcpsock import Reader, SocketError, TlsOptions, connect

Reply = Union[str, int, bytes, None, "list[Reply]", "RedisError"]


class RedisError(Exception):
    """The server's own error; one command's, so it stands in the list among the other answers."""


def encode(*words: str | bytes | int) -> bytes:
    """A command, as an array of strings that may hold any bytes."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


def read_reply(reader: Reader) -> Reply:
    """Read one answer, however deep its arrays go."""
    line = reader.readline()
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest.decode()
    if kind == b"-":
        return RedisError(rest.decode())
    if kind == b":":
        return int(rest)
    if kind == b"$":
        length = int(rest)
        return None if length < 0 else reader.read_exactly(length + 2)[:-2]
    if kind == b"*":
        return [read_reply(reader) for _ in range(int(rest))]
    raise ValueError(f"not RESP: {line!r}")


def pipeline(
    address: str, *commands: tuple[str | bytes | int, ...], tls: TlsOptions | None = None
) -> list[Reply]:
    """Send all `commands` at once, say QUIT, and return their answers in order."""
    # Some releases hang up without a close_notify. That loses nothing: answers tell their length.
    tls = tls or TlsOptions(allow_truncation=True)
    with connect(address, secure_transport="on", tls=tls, timeout=10) as sock:
        reader, writer = sock.streams()
        # Many answers may come while we still write: they are read ahead, so nobody is stuck.
        writer.writelines(encode(*command) for command in (*commands, ("QUIT",)))
        *replies, goodbye = [read_reply(reader) for _ in range(len(commands) + 1)]
        if goodbye != "OK" or reader.read():
            raise RedisError("no clean end")
        return replies


def show(address: str, tls: TlsOptions | None = None) -> None:
    commands = [
        ("SET", "tcpsock:greeting", b"hello\r\nworld"),
        ("GET", "tcpsock:greeting"),
        ("DEL", "tcpsock:visits"),
        *[("INCR", "tcpsock:visits")] * 3,
        ("MGET", "tcpsock:greeting", "tcpsock:visits", "tcpsock:nothing"),
        ("INCR", "tcpsock:greeting"),
    ]
    for command, reply in zip(commands, pipeline(address, *commands, tls=tls), strict=True):
        print(*command, "->", repr(reply))


def main() -> None:
    if len(sys.argv) > 1:
        show(sys.argv[1])
    else:
        import stand_ins

        with stand_ins.redis() as server:
            show(server.address, TlsOptions(ca_data=server.ca_data, allow_truncation=True))


if __name__ == "__main__":
    try:
        main()
    except SocketError as error:
        sys.exit(f"redis_pipeline: {error}")
