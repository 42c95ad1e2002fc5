"""The TLS contexts of our connections: built step by step, and shared.

`ssl.create_default_context()` differs from one Python to the next, so ours says each thing
itself and means the same everywhere. Loading certifi's roots takes some 40 ms, therefore a
context is kept, and given to every connection that wants the same (rule O7).
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from .._errors import TlsError
from .._options import TlsOptions
from . import platform

__all__ = ["checked_at_call", "client_context"]

_MOST_CONTEXTS = 32  # about 1 MB each with certifi's roots; few programs need more than three


def checked_at_call(tls: TlsOptions) -> bool:
    """Whether something of the user's must be read to make the context.

    Then connect() has it made at the call, where mistakes in it are raised (rule A4). Otherwise
    the connection's own thread has the time for it.
    """
    return tls.ca_file is not None or tls.ca_data is not None or tls.client_cert is not None


def client_context(tls: TlsOptions) -> ssl.SSLContext:
    """The context for these options: the user's own, or one of ours, shared and not to be changed.

    Raises:
        OSError: a file cannot be read; `.filename` tells which (rule A4).
        ValueError: a file, or ca_data, does not hold what it should; the key is not that of the
            certificate; or it cannot be decrypted. The message names the option and the file.
        TlsError: SSL_CERT_FILE, SSL_CERT_DIR or SSLKEYLOGFILE names something unusable (rule O7).
    """
    if tls.ssl_context is not None:
        return tls.ssl_context
    # The files' identity is taken before they are read: if one changes in between, the next
    # connection finds another shape and reads it anew.
    shape = _shape_of(tls)
    with _lock:
        entry = _entries.setdefault(shape, _Entry())
        _entries.move_to_end(shape)
        if len(_entries) > _MOST_CONTEXTS:
            _entries.popitem(last=False)
    with entry.lock:
        if entry.context is None:  # we are the first, or those before us failed
            entry.context = _build(shape, tls.client_key_password)
        return entry.context


class _Entry:
    """One place in the cache.

    `lock` guards `context`, and is held while that is being built: a thousand connections that
    start together build it once. No other lock is taken meanwhile.
    """

    __slots__ = ("context", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.context: ssl.SSLContext | None = None


# By shape, the one not used for the longest time first. Guarded by _lock, which is held only to
# look something up: never while a context is built, nor while another lock is taken.
_entries: OrderedDict[_Shape, _Entry] = OrderedDict()
_lock = threading.Lock()
_left_alone: list[_Entry] = []  # the parent's contexts, in a child: freeing one takes its lock too


def _after_fork() -> None:
    """Begin anew in the child: nobody would ever release a lock that another thread of the parent
    held at the fork, ours or the one inside of an OpenSSL context.
    """
    global _lock
    _lock = threading.Lock()
    _left_alone.extend(_entries.values())
    _entries.clear()


platform.at_fork(in_child=_after_fork)


# What shapes a context: the key of the cache. Trusted roots come from different places; each knows
# how to put them into a context, and is compared by everything that decides what they are.

_Identity = tuple[int, int, int, int]  # device, inode, mtime in ns, size


class _Roots(Protocol):
    def add_to(self, context: ssl.SSLContext) -> None: ...


@dataclass(frozen=True, slots=True)
class _Shape:
    minimum_version: ssl.TLSVersion
    alpn: tuple[str, ...]
    roots: tuple[_Roots, ...]
    client: _ClientCertificate | None
    key_log: str | None


@dataclass(frozen=True, slots=True)
class _CertifiRoots:
    def add_to(self, context: ssl.SSLContext) -> None:
        import certifi  # not before it is needed: many programs bring their own roots

        context.load_verify_locations(cafile=certifi.where())


@dataclass(frozen=True, slots=True)
class _SystemRoots:
    def add_to(self, context: ssl.SSLContext) -> None:
        if not any(name in os.environ for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")):
            context.load_default_certs()
            return
        # One is set, and is empty or to be ignored (else we would not be here). OpenSSL would
        # look at it all the same, so it gets its own built-in paths by name (but nothing from
        # Windows' stores, which come only together with what the variables say).
        paths = ssl.get_default_verify_paths()
        if os.path.isfile(paths.openssl_cafile):
            context.load_verify_locations(cafile=paths.openssl_cafile)
        if os.path.isdir(paths.openssl_capath):
            context.load_verify_locations(capath=paths.openssl_capath)


@dataclass(frozen=True, slots=True)
class _RootsFromFile:
    path: str
    identity: _Identity

    def add_to(self, context: ssl.SSLContext) -> None:
        _add_certificates(context, _read_pem(self.path), f"ca_file {self.path!r}")


@dataclass(frozen=True, slots=True)
class _RootsFromMemory:
    material: str | bytes

    def add_to(self, context: ssl.SSLContext) -> None:
        material = self.material
        if isinstance(material, str):
            material = _pem(material.encode("ascii", "ignore"))
        elif b"-----BEGIN " in material:
            material = _pem(material)
        _add_certificates(context, material, "ca_data")


@dataclass(frozen=True, slots=True)
class _RootsFromFileVariable:
    path: str
    identity: _Identity

    def add_to(self, context: ssl.SSLContext) -> None:
        named = f"SSL_CERT_FILE={self.path!r}"
        with _blaming(named):
            _add_certificates(context, _read_pem(self.path), named)


@dataclass(frozen=True, slots=True)
class _RootsFromDirectoryVariable:
    paths: str
    identities: tuple[_Identity, ...]

    def add_to(self, context: ssl.SSLContext) -> None:
        named = f"SSL_CERT_DIR={self.paths!r}"
        with _blaming(named):
            names = [name for path in _split(self.paths) for name in os.listdir(path)]
            # OpenSSL looks a certificate up by the hash of its subject, and at no other file.
            if not any(re.fullmatch(r"[0-9a-f]{8}\.[0-9]+", name) for name in names):
                raise ValueError(f"{named}: no certificate by a hashed name (see openssl rehash)")
            context.load_verify_locations(capath=self.paths)


@dataclass(frozen=True, slots=True)
class _ClientCertificate:
    cert: str
    key: str
    password: bytes | None  # what _hashed() made of it
    identities: tuple[_Identity, _Identity]

    def add_to(self, context: ssl.SSLContext, password: str | bytes | None) -> None:
        for path in (self.cert, self.key):  # OpenSSL's own OSError does not tell which it was
            with open(path, "rb"):
                pass
        encrypted = False

        def give_password() -> str | bytes:
            nonlocal encrypted
            encrypted = True
            if password is None:
                raise ValueError(f"{self._key()}: it is encrypted; give client_key_password")
            return password

        try:
            # Without a function that gives the password, OpenSSL asks for it on the terminal.
            context.load_cert_chain(self.cert, self.key, give_password)
        except ssl.SSLError as error:
            raise ValueError(self._trouble(error, encrypted)) from error

    def _key(self) -> str:
        option = "client_cert" if self.key == self.cert else "client_key"
        return f"{option} {self.key!r}"

    def _trouble(self, error: ssl.SSLError, encrypted: bool) -> str:
        """What is wrong with which of the two files: OpenSSL says little of that."""
        cert = f"client_cert {self.cert!r}"
        reason = error.reason or ""
        if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            return f"{self._key()}: not the key of the certificate in {self.cert!r}"
        if reason.endswith(("TOO_SMALL", "TOO_WEAK")):
            return f"{cert}: refused{_why(error)}"
        try:
            _add_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), _read_pem(self.cert), cert)
        except ValueError as broken:
            return str(broken)
        if encrypted:
            return f"{self._key()}: client_key_password does not decrypt it"
        return f"{self._key()}: no private key, or a broken one"


def _shape_of(tls: TlsOptions) -> _Shape:
    return _Shape(
        minimum_version=tls.minimum_version,
        alpn=tuple(tls.alpn),
        roots=_roots_of(tls),
        client=_client_of(tls),
        key_log=_environment("SSLKEYLOGFILE"),
    )


def _roots_of(tls: TlsOptions) -> tuple[_Roots, ...]:
    if tls.ca_file is not None:
        path = os.fspath(tls.ca_file)
        return (_RootsFromFile(path, _identity(path)),)
    if tls.ca_data is not None:
        return (_RootsFromMemory(tls.ca_data),)
    roots: list[_Roots] = []
    if file := _environment("SSL_CERT_FILE"):
        with _blaming(f"SSL_CERT_FILE={file!r}"):
            roots.append(_RootsFromFileVariable(file, _identity(file)))
    if paths := _environment("SSL_CERT_DIR"):
        with _blaming(f"SSL_CERT_DIR={paths!r}"):
            identities = tuple(_identity(path) for path in _split(paths))
            roots.append(_RootsFromDirectoryVariable(paths, identities))
    if not roots:
        roots.append(_SystemRoots() if tls.trust == "system" else _CertifiRoots())
    return tuple(roots)


def _client_of(tls: TlsOptions) -> _ClientCertificate | None:
    if tls.client_cert is None:
        return None
    cert = os.fspath(tls.client_cert)
    key = cert if tls.client_key is None else os.fspath(tls.client_key)
    identities = (_identity(cert), _identity(key))
    return _ClientCertificate(cert, key, _hashed(tls.client_key_password), identities)


def _identity(path: str) -> _Identity:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


_SALT = os.urandom(16)  # so that a hash means nothing outside of this process


def _hashed(password: str | bytes | None) -> bytes | None:
    """What the cache keeps of a password.

    It has to know it again, since a wrong one must not find the context that the right one made.
    """
    if password is None:
        return None
    encoded = password.encode() if isinstance(password, str) else password
    return hashlib.blake2b(encoded, key=_SALT).digest()


def _environment(name: str) -> str | None:
    """What a variable says; nothing under -E and -I, and an empty one says nothing either."""
    return None if sys.flags.ignore_environment else os.environ.get(name) or None


def _split(paths: str) -> list[str]:
    """SSL_CERT_DIR names one or more directories, as PATH does."""
    return [path for path in paths.split(os.pathsep) if path]


# Building one.


def _build(shape: _Shape, client_key_password: str | bytes | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = shape.minimum_version
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    context.hostname_checks_common_name = False  # RFC 9525: names stand in subjectAltName alone
    # PARTIAL_CHAIN: what stands in ca_file is trusted, also if it is an intermediate certificate.
    # Not STRICT: it refuses private roots that lack an extension, as many do. A default context
    # has both from Python 3.13 on, and neither before.
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    # With this flag, which Python sets, an EOF without close_notify looks like a clean one (R8).
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    # A server of TLS 1.2 may ask to begin anew in the middle of the stream: another certificate
    # would come, and writes would wait for what reads receive. It is told that we don't.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if shape.alpn:
        context.set_alpn_protocols(list(shape.alpn))
    for roots in shape.roots:
        roots.add_to(context)
    if shape.client is not None:
        shape.client.add_to(context, client_key_password)
    if shape.key_log is not None:
        with _blaming(f"SSLKEYLOGFILE={shape.key_log!r}"):
            context.keylog_filename = shape.key_log
    return context


def _read_pem(path: str) -> str:
    with open(path, "rb") as file:
        return _pem(file.read())


def _pem(material: bytes) -> str:
    """PEM as OpenSSL takes it from memory: ASCII alone. Comments round it may be anything."""
    return material.decode("ascii", "ignore")


def _add_certificates(context: ssl.SSLContext, material: str | bytes, named: str) -> None:
    """Trust every certificate in a PEM text or a DER string; ValueError if one is broken."""
    try:
        context.load_verify_locations(cadata=material)
    except (ssl.SSLError, ValueError) as error:  # ValueError: it is empty
        raise ValueError(f"{named}: no certificate, or a broken one{_why(error)}") from error


def _why(error: Exception) -> str:
    """OpenSSL's reason in brackets, to stand at the end of a message; empty if there is none."""
    reason = getattr(error, "reason", None)
    return f" ({reason.lower().replace('_', ' ')})" if reason else ""


@contextmanager
def _blaming(setting: str) -> Iterator[None]:
    """Trouble with what an environment variable names becomes a TlsError that shows the setting."""
    try:
        yield
    except OSError as error:
        raise TlsError(f"{setting}: {error.strerror}", errno=error.errno) from error
    except ValueError as error:  # names it already
        raise TlsError(str(error)) from error
