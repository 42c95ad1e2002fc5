"""The network in the test's hands: what names mean, and what is dialled."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from peers import Listener

__all__ = ["PUBLIC", "Dials", "QuietListener", "Zone"]

PUBLIC = "93.184.215.14"  # no dial ever gets there, see Dials


class Zone:
    """Stands in for `socket.getaddrinfo`: what it knows, and what it was asked."""

    def __init__(self) -> None:
        self.names: dict[str, list[str] | Callable[[], list[str]]] = {}
        self.ports: dict[str, int] = {}  # where a listener is not on the port asked for
        self.asked: list[str] = []

    def __setitem__(self, name: str, answer: list[str] | Callable[[], list[str]]) -> None:
        self.names[name] = answer

    def getaddrinfo(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host)
        answer = self.names.get(host.lower().removesuffix("."))
        if answer is None:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        found = []
        for address in answer if isinstance(answer, list) else answer():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            where: Any = (address, self.ports.get(host, port))
            if family == socket.AF_INET6:
                where += (0, 0)
            found.append((family, socket.SOCK_STREAM, 0, "", where))
        return found


class Dials:
    """Every attempt to connect. Those that would leave the machine fail at once."""

    def __init__(self, dial: Callable[..., socket.socket]) -> None:
        self._dial = dial
        self.made: list[str] = []

    def __call__(self, candidate: Any, prepare: Any) -> socket.socket:
        ip = ipaddress.ip_address(candidate.sockaddr[0].partition("%")[0])
        self.made.append(str(ip))
        inner = getattr(ip, "ipv4_mapped", None) or ip
        if not inner.is_loopback:
            raise OSError(errno.ENETUNREACH, "not in a test")
        return self._dial(candidate, prepare)


class QuietListener(Listener):
    """A listener that can tell that nobody came."""

    def saw_nobody(self) -> bool:
        self.sock.setblocking(False)
        try:
            self.sock.accept()[0].close()
        except BlockingIOError:
            return True
        return False
