"""Which sockets are ours, so that a forked child can close its copies of them (rule E8)."""

from __future__ import annotations

import os
import socket
import weakref

from .platform import at_fork

__all__ = ["ours"]

# Every socket that a connection dials, adopts or serves. Adding and discarding one is a single step
# of a set, with or without a GIL; only a child, which has one thread, goes through them.
ours: weakref.WeakSet[socket.socket] = weakref.WeakSet()

# TLS objects of the parent, left alone and alive in the child: a thread of the parent may have been
# in the middle of a call into one of them.
_untouchable: list[socket.socket] = []


def _in_child() -> None:
    """Close the child's copies. No shutdown, no close_notify: the peer notices nothing."""
    for sock in list(ours):
        _untouchable.append(sock)
        fd = sock.detach()
        if fd >= 0:
            os.close(fd)
    ours.clear()


at_fork(in_child=_in_child)
