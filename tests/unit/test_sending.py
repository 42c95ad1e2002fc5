"""The turn to send: whose it is, and that nobody else gives it up."""

from __future__ import annotations

import socket
import threading

import tcpsock


def test_W3_a_second_half_close_leaves_the_turn_of_the_first_alone() -> None:
    """Else the descriptor may be closed, and its number reused, in the middle of the first one."""
    ours, theirs = socket.socketpair()
    with theirs, tcpsock.adopt(ours, close_timeout=0) as sock:
        sock.opened.result(10)
        connection = sock._connection
        wire, sending = connection.state.wire, connection.sending
        assert wire is not None
        half_close, turns = wire.half_close, []

        def interrupted() -> bool:
            turns.append(sending.turn)
            another = threading.Thread(target=sock.writable.close)
            another.start()
            another.join(10)
            turns.append(sending.turn)
            return half_close()

        wire.half_close = interrupted  # type: ignore[method-assign]
        sock.writable.close()
        assert theirs.recv(1) == b""
        assert len(turns) == 2 and turns[0] is turns[1] is not None
