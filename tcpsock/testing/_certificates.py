"""Certificates for tests: one authority a process, made when it is first asked for.

Keys and certificates come from trustme (the extra ``tcpsock[test]``), which is imported late: a
plain server needs none of it. Nothing is written to disk but for the moment in which
``SSLContext.load_cert_chain()`` reads it, since that function takes files alone.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import pathlib
import ssl
import tempfile
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import trustme
    from _typeshed import WriteableBuffer

__all__ = ["Authority", "Certificate", "authority", "server_context"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")

# trustme's own dates for a valid certificate are 2000-01-01 and 3000-01-01.
_VALIDITY = {
    "current": (None, None),
    "expired": (datetime.datetime(2000, 1, 1), datetime.datetime(2001, 1, 1)),
    "future": (datetime.datetime(2999, 1, 1), datetime.datetime(3000, 1, 1)),
}

_first = threading.Lock()  # makes authority() make one, however many threads ask at once


@dataclass(frozen=True)
class Certificate:
    """A certificate with its chain (leaf first, without the root) and its private key, as PEM."""

    chain: str
    key: str = field(repr=False)

    def write(self, directory: str | os.PathLike[str]) -> tuple[str, str]:
        """Write ``cert.pem`` and ``key.pem`` (mode 0600) and return their paths.

        They are what ``TlsOptions(client_cert=..., client_key=...)`` and most servers take.
        """
        chain = pathlib.Path(directory, "cert.pem")
        key = pathlib.Path(directory, "key.pem")
        chain.write_text(self.chain)
        key.touch(mode=0o600)
        key.write_text(self.key)
        return str(chain), str(key)

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make `context` present this certificate."""
        with tempfile.TemporaryDirectory() as directory:
            context.load_cert_chain(*self.write(directory))


class Authority:
    """A certificate authority of its own: nobody trusts it who wasn't given its ``ca_data``.

    Args:
        parent: makes this an intermediate one; its certificates' chains then lead up to `parent`.

    Raises:
        ImportError: trustme isn't installed.
    """

    def __init__(self, parent: Authority | None = None) -> None:
        made = _trustme().CA() if parent is None else parent._ca.create_child_ca()
        self._ca: trustme.CA = made

    @property
    def ca_data(self) -> str:
        """This authority's certificate as PEM text, for ``TlsOptions(ca_data=...)``."""
        return self._ca.cert_pem.bytes().decode("ascii")

    def issue(
        self,
        *names: str,
        validity: Literal["current", "expired", "future"] = "current",
    ) -> Certificate:
        """Issue a certificate, for a server or a client.

        Args:
            names: host names, wildcards, IP or mail addresses that it is valid for; none means
                localhost, 127.0.0.1 and ::1.
            validity: "expired" has run out, "future" isn't valid yet.
        """
        not_before, not_after = _VALIDITY[validity]
        leaf = self._ca.issue_cert(*(names or LOOPBACK), not_before=not_before, not_after=not_after)
        return Certificate(
            chain="".join(part.bytes().decode("ascii") for part in leaf.cert_chain_pems),
            key=leaf.private_key_pem.bytes().decode("ascii"),
        )


def authority() -> Authority:
    """Return the process's authority: the one behind ``tls=True`` and ``Server.ca_data``.

    Raises:
        ImportError: trustme isn't installed.
    """
    with _first:
        return _the_authority()


def server_context(
    certificate: Certificate | None = None,
    *,
    minimum: ssl.TLSVersion | None = None,
    maximum: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    client_ca: str | None = None,
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """Make a server's TLS context.

    Its sockets give b"" at the peer's EOF also after half_close(), where Python's own would raise
    ``ssl.SSLZeroReturnError``.

    Args:
        certificate: what to present; None: one by authority() for localhost, 127.0.0.1 and ::1.
        minimum, maximum: TLS versions. `minimum` is TLS 1.2, or `maximum` if that is older:
            ``maximum=TLSv1_1`` gives the outdated server that a good client refuses.
        client_ca: PEM of the authority whose client certificates are demanded; None: no demand.
        alpn: protocols in the server's order of preference.

    Raises:
        ImportError: no certificate was given, and trustme isn't installed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = _ServerSocket
    newest_wanted = ssl.TLSVersion.TLSv1_3 if maximum < 0 else maximum  # MAXIMUM_SUPPORTED is -1
    oldest = minimum or min(ssl.TLSVersion.TLSv1_2, newest_wanted)
    with contextlib.ExitStack() as quiet:
        if oldest < ssl.TLSVersion.TLSv1_2:
            quiet.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", DeprecationWarning)
            context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else OpenSSL 3 refuses to speak it at all
        context.minimum_version = oldest
        context.maximum_version = maximum
    (certificate or _loopback_certificate()).load_into(context)
    if client_ca is not None:
        context.load_verify_locations(cadata=client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class _ServerSocket(ssl.SSLSocket):
    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ssl.SSLZeroReturnError:
            return b""

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        try:
            return super().recv_into(buffer, nbytes, flags)
        except ssl.SSLZeroReturnError:
            return 0


def _loopback_certificate() -> Certificate:
    with _first:
        return _the_loopback_certificate()


@functools.cache
def _the_authority() -> Authority:
    return Authority()


@functools.cache
def _the_loopback_certificate() -> Certificate:
    return _the_authority().issue()


def _trustme() -> ModuleType:
    try:
        import trustme
    except ImportError as error:
        raise ImportError(
            "test certificates need trustme: pip install tcpsock[test]", name="trustme"
        ) from error
    return trustme
