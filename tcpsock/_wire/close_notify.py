"""TLS's half-close: say that we are done sending, without reading one byte.

`SSLSocket.unwrap()` calls SSL_shutdown twice, and the second call reads: with inbound data waiting
it fails, and all of that data is lost. So the TLS object gets nothing to read: for a moment its
descriptor points to a socket pair of ours. Its close_notify record comes out of the pair's other
end, to be sent over the real connection by whoever called.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading

from .platform import at_fork

__all__ = ["close_notify_record"]


class _Decoy:
    """The socket pair, and a descriptor that remembers the real connection meanwhile.

    One a process, made at first need and kept: a half-close then needs no free descriptor.
    """

    def __init__(self) -> None:
        pair = socket.socketpair()
        self.inside, self.outside = (end.detach() for end in pair)  # kept to the very end
        os.set_blocking(self.inside, False)
        os.set_blocking(self.outside, False)
        self.spare = os.dup(self.inside)
        self.busy = False

    def empty(self) -> None:
        """Throw away the record that an exception out of a signal handler left behind."""
        try:
            os.read(self.outside, 1 << 16)
        except BlockingIOError:
            pass  # there is none, as always

    def close(self) -> None:
        for fd in (self.inside, self.outside, self.spare):
            os.close(fd)


# Guards the decoy while a connection uses it. The last lock that anybody takes: after a
# connection's TLS lock. It is held across fork, so that no child begins with a swapped descriptor.
# Re-entrant, since a finalizer may close a connection in the middle of another's half-close.
_swap_lock = threading.RLock()
_decoy: _Decoy | None = None


def prepare() -> None:
    """Have the descriptors that a half-close needs, while there are some to be had."""
    global _decoy
    with _swap_lock:
        if _decoy is None:
            _decoy = _Decoy()


def close_notify_record(sock: ssl.SSLSocket) -> bytes:
    """End the sending side of a TLS session.

    Args:
        sock: non-blocking; the caller holds the lock that guards it, and has taken out whatever
            `pending()` tells of.

    Returns:
        The record that is to be sent, as it is, to the peer; empty if TLS can't make one any more.

    Raises:
        BlockingIOError: this thread is in the middle of a half-close; try again later.

    A poll() that begins meanwhile in another thread waits on the pair: wake it afterwards.
    """
    prepare()
    with _swap_lock:
        assert _decoy is not None
        if _decoy.busy:
            raise BlockingIOError
        fd, inside = sock.fileno(), _decoy.inside
        _decoy.busy = True
        try:
            _decoy.empty()
            os.dup2(fd, _decoy.spare, inheritable=False)
            try:
                os.dup2(inside, fd, inheritable=False)
                sock.unwrap()
            except (ssl.SSLError, OSError):
                pass  # SSLWantReadError: it went out, and the peer's own is still to come
            finally:
                os.dup2(_decoy.spare, fd, inheritable=False)
            return os.read(_decoy.outside, 1 << 16)
        except BlockingIOError:
            return b""  # nothing came out
        finally:
            os.dup2(inside, _decoy.spare, inheritable=False)  # keeps no connection open
            _decoy.busy = False


def _in_child() -> None:
    global _decoy
    if _decoy is not None:
        _decoy.close()
        _decoy = None
    _swap_lock.release()


at_fork(before=_swap_lock.acquire, in_parent=_swap_lock.release, in_child=_in_child)
