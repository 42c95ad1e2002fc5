"""From a host to the addresses that can be dialled, by look-ups that can be abandoned.

`getaddrinfo` cannot be cancelled and knows no time limit. So each look-up has a thread of its own,
which nobody needs to wait for: one that hangs holds up nothing but itself (rule O5). A pool of
such threads would not do, as forty look-ups that hang would fill it.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import itertools
import re
import socket
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .. import _threads
from .._errors import bare
from .address import dns_name, host_port, ip_literal

__all__ = ["Candidate", "Lookup", "interleave", "literal"]


class Candidate(NamedTuple):
    """An address to dial."""

    family: int
    """`socket.AF_INET` or `socket.AF_INET6`."""
    sockaddr: tuple[str, int] | tuple[str, int, int, int]
    """What `socket.connect()` takes in this family."""

    @property
    def address(self) -> str:
        """In the form "ip:port", IPv6 bracketed, with its scope where there is one."""
        ip, port, *flow_and_scope = self.sockaddr
        scope = flow_and_scope[1] if flow_and_scope else 0
        return host_port(f"{ip}%{scope}" if scope else ip, port)


def literal(hostname: str, port: int) -> tuple[Candidate, ...] | None:
    """The one candidate that an IP address is, found without any look-up; None for a name.

    Raises:
        OSError: the scope of an IPv6 address is no interface of this machine.
    """
    ip, scope = _address_and_scope(hostname)
    if ip is None:
        return None
    if ":" in ip:
        return (Candidate(socket.AF_INET6, (ip, port, 0, _scope_id(scope))),)
    return (Candidate(socket.AF_INET, (ip, port)),)


@functools.lru_cache(maxsize=1024)
def _address_and_scope(hostname: str) -> tuple[str | None, str]:
    """The IP address that a host is, spelled as getpeername() does it, or None; and its scope."""
    ip, _, scope = dns_name(hostname).partition("%")
    if not ip_literal(ip):
        return None, ""
    packed = ipaddress.ip_address(ip).packed
    return socket.inet_ntop(socket.AF_INET6, packed) if len(packed) == 16 else ip, scope


def _scope_id(scope: str) -> int:
    if not scope:
        return 0
    if re.fullmatch("[0-9]{1,9}", scope):  # more would be cut to 32 bits somewhere below
        return int(scope)
    return socket.if_nametoindex(scope)


class Lookup:
    """One `getaddrinfo` call in a thread of its own, begun when this is made.

    The thread knows this object alone, and this object knows nothing of the connection but
    `on_done`: whoever abandons it leaves a thread behind, and no more.

    Args:
        hostname: a name; IP addresses need no look-up, see `literal`.
        port: where to connect.
        on_done: called once, in the look-up's thread or (if there is no thread to be had) in this
            call. It must neither wait nor raise nor call this object: it runs under its lock.
    """

    def __init__(self, hostname: str, port: int, on_done: Callable[[], None]) -> None:
        self._hostname = hostname
        self._port = port
        self._outcome: list[Candidate] | BaseException | None = None
        self._on_done: Callable[[], None] | None = on_done
        # Guards _on_done, also while it is called: when abandon() has returned, its caller may
        # close the descriptor that on_done would write to.
        self._lock = threading.Lock()
        try:
            _threads.start(self._run, f"tcpsock {host_port(hostname, port)} look-up")
        except RuntimeError as error:  # the interpreter is ending, or too many threads
            self._finish(OSError(errno.EAGAIN, f"no thread for the look-up: {error}"))

    @property
    def done(self) -> bool:
        """Whether `result()` has something to say."""
        return self._outcome is not None

    def result(self) -> list[Candidate]:
        """What was found, in the resolver's order: at least one. Only after `done`.

        Raises:
            OSError, UnicodeError, or whatever else `getaddrinfo` raised.
        """
        assert self._outcome is not None, "the look-up is not done"
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome

    def abandon(self) -> None:
        """Forget `on_done`: after this call it neither runs nor is referred to."""
        with self._lock:
            self._on_done = None

    def _run(self) -> None:
        try:
            found = self._ask()
        except BaseException as error:  # users replace getaddrinfo, and theirs may raise anything
            self._finish(bare(error))
        else:
            self._finish(found)

    def _ask(self) -> list[Candidate]:
        # Asked of the module at this moment: tests and users put their own function there.
        answers = socket.getaddrinfo(dns_name(self._hostname), self._port, type=socket.SOCK_STREAM)
        found = [
            Candidate(family, tuple(sockaddr))  # type: ignore[arg-type]  # two or four items
            for family, _type, _protocol, _name, sockaddr in answers
            if family in (socket.AF_INET, socket.AF_INET6)
        ]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "the name has no IP address")
        return found

    def _finish(self, outcome: list[Candidate] | BaseException) -> None:
        self._outcome = outcome  # before on_done: who waits for that reads it afterwards
        with self._lock:
            on_done, self._on_done = self._on_done, None
            if on_done is not None:
                on_done()


def interleave(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The order to dial in: families take turns, beginning with the resolver's first choice.

    RFC 8305 section 4. Within a family the resolver's order stays; duplicates are dropped.
    """
    families: dict[int, list[Candidate]] = {}
    for candidate in dict.fromkeys(candidates):
        families.setdefault(candidate.family, []).append(candidate)
    turns = itertools.zip_longest(*families.values())
    return [candidate for turn in turns for candidate in turn if candidate is not None]
