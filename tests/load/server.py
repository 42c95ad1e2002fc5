"""The other side of the load: a process of its own, so that memory and descriptors are ours alone.

`Server` starts it and knows its addresses. It is one asyncio loop, which holds ten thousand
connections for little, and lives as long as its stdin is open: however its parent ends, it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType

from tcpsock.testing import authority, server_context

__all__ = ["HOST", "Server", "raise_descriptor_limit"]

HOST = "127.0.0.1"
_BACKLOG = 4096  # as many as the system allows: a crowd comes at once
_BLOCK = b"flood" * 13_107


def raise_descriptor_limit(needed: int) -> None:
    """Allow this process as many descriptors as the system lets it have.

    Raises:
        OSError: those are fewer than needed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OSError(f"this load needs {needed} descriptors, and the hard limit is {hard}")


class Server:
    """The server process, seen from the one that loads it; a context manager.

    Each service has a plain and a TLS address: `server.address("echo", tls=True)`.

    Attributes:
        ca_data: the root of its certificate, PEM.
    """

    ca_data: str

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        report = json.loads(self._process.stdout.readline())
        self.ca_data = report["ca_data"]
        self._ports: dict[str, list[int]] = report["ports"]
        return self

    def address(self, service: str, *, tls: bool = False) -> str:
        """Where to find a service; services are the coroutines below."""
        return f"{HOST}:{self._ports[service][tls]}"

    def let_go(self, connections: int) -> None:
        """Have `hold` end so many of its connections, those that came first."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{connections}\n")
        self._process.stdin.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        process = self._process
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            process.wait(5)
        finally:
            process.kill()
            process.wait()


# Services: what is done with a connection. Each is ended by close_notify (TLS) and FIN afterwards.

_Service = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, until the client ends."""
    while received := await reader.read(1 << 16):
        writer.write(received)
        await writer.drain()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One byte for one byte, and the end."""
    if await reader.read(1):
        writer.write(b"!")


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send for ever."""
    while True:
        writer.write(_BLOCK)
        await writer.drain()


async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read all that comes, and say nothing."""
    while await reader.read(1 << 16):
        pass


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """After one byte, a reset."""
    await reader.read(1)
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def truncate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """After one byte, FIN without close_notify."""
    await reader.read(1)
    writer.transport.abort()


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with what is no TLS record."""
    if await reader.read(1):
        writer.write(b"220 mail.example ESMTP\r\n")


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Neither read nor write, until told to let go."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a reading transport
    await _let_go.acquire()


_SERVICES: tuple[_Service, ...] = (echo, answer, flood, take, reset, truncate, garbage, hold)
_let_go: asyncio.Semaphore


async def _serve() -> None:
    global _let_go
    _let_go = asyncio.Semaphore(0)
    over = asyncio.Event()
    context = server_context()
    listening = []
    ports: dict[str, list[int]] = {}
    for service in _SERVICES:
        for tls in (None, context):
            listening.append(
                await asyncio.start_server(
                    _ending(service), sock=_listener(service), ssl=tls, backlog=_BACKLOG
                )
            )
            port = listening[-1].sockets[0].getsockname()[1]
            ports.setdefault(service.__name__, []).append(port)

    def command() -> None:
        line = sys.stdin.readline()
        for _ in range(int(line or 0)):
            _let_go.release()
        if not line:
            over.set()

    asyncio.get_running_loop().add_reader(sys.stdin, command)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # clients that went away
    print(json.dumps({"ca_data": authority().ca_data, "ports": ports}), flush=True)
    await over.wait()
    os._exit(0)  # with thousands of connections there is nothing to tidy up


def _listener(service: _Service) -> socket.socket:
    sock = socket.socket()
    if service is hold:  # so that who writes to it is soon stuck
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.bind((HOST, 0))
    return sock


def _ending(service: _Service) -> _Service:
    """The service, and the end of the connection after it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # the client has gone
            await service(reader, writer)
        writer.close()

    return serve


if __name__ == "__main__":
    raise_descriptor_limit(0)
    asyncio.run(_serve())
