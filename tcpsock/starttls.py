"""StartTLS as thirteen protocols have it: negotiate() speaks the dialogue and begins TLS.

>>> with connect("mail.example.com:25", secure_transport="starttls") as plain:
...     reader, writer = negotiate(plain, "smtp").streams()
...     writer.write(b"EHLO client.example.com\\r\\n")  # anew: what was said before TLS is void
"""

from __future__ import annotations

import concurrent.futures
import copy
import ipaddress
import logging
from collections.abc import Callable
from types import EllipsisType

from ._deadline import Deadline
from ._errors import (
    ConnectionLost,
    IncompleteRead,
    LimitExceeded,
    ReadTimeout,
    SocketError,
    StartTlsError,
    StartTlsRefused,
    fresh,
    printable,
)
from ._info import SocketInfo
from ._options import call_timeout
from ._socket import Socket
from ._starttls.databases import mysql, postgres
from ._starttls.dialogue import Dialogue, NotSpoken, ReadExactly, ReadTo, Refused, Send, Step
from ._starttls.irc import irc
from ._starttls.ldap import ldap
from ._starttls.mail_and_news import ftp, imap, lmtp, nntp, pop3, smtp
from ._starttls.sieve import sieve
from ._starttls.xmpp import xmpp, xmpp_server
from ._streams import Reader, Writer

__all__ = ["PROTOCOLS", "negotiate"]

_DIALOGUES: dict[str, Callable[[str], Dialogue[None]]] = {
    "smtp": smtp,
    "lmtp": lmtp,
    "imap": imap,
    "pop3": pop3,
    "ftp": ftp,
    "nntp": nntp,
    "sieve": sieve,
    "irc": irc,
    "ldap": ldap,
    "postgres": postgres,
    "mysql": mysql,
    "xmpp": xmpp,
    "xmpp-server": xmpp_server,
}

PROTOCOLS: tuple[str, ...] = tuple(_DIALOGUES)
"""The names that negotiate() knows."""

_LONGEST_REPLY_LINE = 8 << 10  # bytes; SMTP allows 512 and IMAP servers have been seen with 2,000
_LONGEST_DIALOGUE = 64 << 10  # bytes from the server; it is not yet known who that is
_SHOWN = 200  # bytes of what came without being a whole reply

_log = logging.getLogger("tcpsock")
_log.addHandler(logging.NullHandler())  # nothing is printed by itself (rule L1)


def negotiate(
    socket: Socket,
    protocol: str,
    *,
    name: str | None = None,
    timeout: float | EllipsisType | None = ...,
) -> Socket:
    """Ask the server for TLS in its own protocol, wait for the go-ahead, and start TLS (rule C7).

    Args:
        socket: opened with `secure_transport="starttls"`; nothing was read from it or written to
            it, and its streams are not locked. It may still be connecting.
        protocol: one of PROTOCOLS.
        name: what we call ourselves in EHLO and LHLO, or the domain that an XMPP stream is for;
            left out, the address literal of our own address (RFC 5321, 4.1.3), or the host.
        timeout: seconds for the whole dialogue, waiting for `opened` included; None is no limit.
            Left out, it is the socket's `timeout`, and without one its `connect_timeout`.

    Returns:
        The socket that `start_tls()` returned: its `opened` tells of the handshake. TLS has its own
        time, `connect_timeout`.

    Raises:
        ValueError: an unknown protocol, or a name that cannot be one.
        StartTlsError: the socket was not opened for StartTLS. StreamLocked: somebody reads or
            writes. ReadTimeout and whatever the connecting failed with, before any byte.
        StartTlsRefused: the server refused, spoke another protocol, or too much; see `reply` and
            `code`.
        PlaintextInjected: bytes came behind the go-ahead.
        ReadTimeout, IncompleteRead, ConnectionLost: it said nothing in time, or hung up.

        Once a byte may have been said, any exception has aborted the socket.
    """
    if protocol not in _DIALOGUES:
        raise ValueError(
            f"protocol must be one of {', '.join(PROTOCOLS)}, not {printable(repr(protocol))}"
        )
    if name is not None:
        _check_name(name, protocol)
    seconds = call_timeout(timeout, _default_timeout(socket))
    _check_transport(socket)
    deadline = Deadline(seconds)
    reader, writer = socket.streams()
    try:
        info = _wait_until_open(socket, deadline)
        dialogue = _DIALOGUES[protocol](name or _default_name(protocol, info))
    except BaseException:
        reader.release_lock()
        writer.release_lock()
        raise
    try:
        _Conversation(socket, protocol, reader, writer, deadline).hold(dialogue)
        return socket.start_tls()
    except BaseException as error:
        # A copy: it has no frames, which would keep alive whatever they refer to.
        socket.abort(copy.copy(error) if isinstance(error, SocketError) else repr(error))
        raise


def _check_transport(socket: Socket) -> None:
    if socket.secure_transport == "on":
        raise StartTlsError(
            f"{socket._address}: this socket is TLS already (tls)",
            address=socket._address,
            code="starttls-already-tls",
        )
    if socket.secure_transport != "starttls":
        raise StartTlsError(
            f"{socket._address}: negotiate() needs a socket that was opened with"
            ' secure_transport="starttls" (tls)',
            address=socket._address,
            code="starttls-not-enabled",
        )


def _default_timeout(socket: Socket) -> float | None:
    options = socket._options
    return options.connect_timeout if options.timeout is None else options.timeout


def _wait_until_open(socket: Socket, deadline: Deadline) -> SocketInfo:
    concurrent.futures.wait([socket.opened], deadline.remaining())
    if not socket.opened.done():
        raise ReadTimeout(
            f"{socket._address}: not connected after {deadline.seconds:g} s; nothing was said",
            phase="connect",
            address=socket._address,
        )
    error = socket.opened.exception()
    if isinstance(error, SocketError):
        raise fresh(error) from error
    return socket.opened.result()


# What we call ourselves -------------------------------------------------------------------------


def _check_name(name: str, protocol: str) -> None:
    """Whether it can stand in a command: a space or a line's end would begin another one."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    in_ascii = name.isascii() or protocol.startswith("xmpp")
    if not (0 < len(name) <= 255 and name.isprintable() and " " not in name and in_ascii):
        raise ValueError(
            f"name must be a host's name or address literal, not {printable(repr(name))}"
        )


def _default_name(protocol: str, info: SocketInfo) -> str:
    if not protocol.startswith("xmpp"):
        return _address_literal(info.local_address)
    if not info.hostname:
        raise ValueError("an XMPP stream is for a domain: give its name=")
    return info.hostname.rstrip(".")


def _address_literal(local_address: str | None) -> str:
    """Our address as RFC 5321, 4.1.3 has it: [192.0.2.1], [IPv6:2001:db8::1]."""
    host = "127.0.0.1" if local_address is None else local_address.rpartition(":")[0].strip("[]")
    host = host.partition("%")[0]  # the zone means nothing to the server
    return f"[IPv6:{host}]" if ipaddress.ip_address(host).version == 6 else f"[{host}]"


# The dialogue over a socket ---------------------------------------------------------------------


class _Conversation:
    """Carries a dialogue's steps out, within one deadline and 64 KiB."""

    def __init__(
        self, socket: Socket, protocol: str, reader: Reader, writer: Writer, deadline: Deadline
    ) -> None:
        self._address = socket._address
        self._protocol = protocol
        self._reader = reader
        self._writer = writer
        self._deadline = deadline
        self._received = 0  # bytes

    def hold(self, dialogue: Dialogue[None]) -> None:
        """Speak until the go-ahead."""
        answer: bytes | None = None
        try:
            while True:
                step = next(dialogue) if answer is None else dialogue.send(answer)
                answer = self._take(step)
        except StopIteration:
            return
        except Refused as refused:
            words = self._quote(refused.reply)
            if refused.why:
                words = f"{refused.why}: {words}" if words else refused.why
            raise self._refusal(f"the server refused StartTLS: {words}", refused.reply) from None
        except NotSpoken as other:
            raise self._refusal(
                f"the server does not speak {self._protocol}: {self._quote(other.reply)} came"
                f" instead of {other.expected}",
                other.reply,
                "starttls-not-spoken",
            ) from None
        finally:
            dialogue.close()

    def _take(self, step: Step) -> bytes:
        if isinstance(step, Send):
            return self._send(step.content)
        if isinstance(step, (ReadTo, ReadExactly)):
            return self._read(step)
        return self._waiting()

    def _send(self, content: bytes) -> bytes:
        self._record("sent", content)
        try:
            self._writer.write(content, timeout=self._deadline.remaining())
        except ConnectionLost:
            pass  # the server has hung up; why, it may have said: that is still to be read
        return b""

    def _read(self, step: ReadTo | ReadExactly) -> bytes:
        room = min(_LONGEST_REPLY_LINE, _LONGEST_DIALOGUE - self._received)
        if room < 1 or (isinstance(step, ReadExactly) and step.size > room):
            raise self._too_long()
        timeout = self._deadline.remaining()
        try:
            if isinstance(step, ReadExactly):
                got = self._reader.read_exactly(step.size, timeout=timeout)
            else:
                got = self._reader.read_until(step.separator, limit=room, timeout=timeout)
        except LimitExceeded:
            raise self._too_long() from None
        except ReadTimeout as error:
            came = self._waiting()
            raise ReadTimeout(
                f"{self._address}: timed out: no answer after {self._deadline.seconds:g} s of"
                f" StartTLS{self._last_words(came)} ({self._protocol}, tls)",
                phase="tls",
                address=self._address,
            ) from error
        except IncompleteRead as error:
            raise IncompleteRead(
                f"{self._address}: the server hung up before the go-ahead for"
                f" StartTLS{self._last_words(error.partial)} ({self._protocol}, tls)",
                phase="tls",
                address=self._address,
                partial=error.partial,
                expected=error.expected,
            ) from error
        self._received += len(got)
        self._record("received", got)
        return got

    def _waiting(self) -> bytes:
        """What has come and was not asked for; only an error's message needs it."""
        try:
            return self._reader.read(_SHOWN, timeout=0)
        except SocketError:
            return b""

    def _last_words(self, came: bytes) -> str:
        return f"; the last that came is {self._quote(came)}" if came else ""

    def _too_long(self) -> StartTlsRefused:
        came = self._waiting()
        what = f"a reply line of more than {_LONGEST_REPLY_LINE} bytes"
        if _LONGEST_DIALOGUE - self._received < _LONGEST_REPLY_LINE:
            what = f"more than {_LONGEST_DIALOGUE} bytes"
        return self._refusal(
            f"StartTLS is refused here: the server said {what}: {self._quote(came)}",
            came,
            "starttls-too-long",
        )

    def _refusal(self, what: str, reply: bytes, code: str | None = None) -> StartTlsRefused:
        return StartTlsRefused(
            f"{self._address}: {what} ({self._protocol}, tls)",
            address=self._address,
            code=code,
            reply=reply.decode("utf-8", "surrogateescape"),
        )

    @staticmethod
    def _quote(said: bytes) -> str:
        """The server's own words, in which no terminal finds a command."""
        return printable(said.decode("utf-8", "backslashreplace").strip())

    def _record(self, direction: str, said: bytes) -> None:
        if not _log.isEnabledFor(logging.DEBUG):
            return
        line = self._quote(said)
        event = {
            "event": "starttls",
            "address": self._address,
            "direction": direction,
            "line": line,
        }
        arrow = ">" if direction == "sent" else "<"
        _log.debug("%s: starttls %s %s", self._address, arrow, line, extra={"tcpsock": event})
