"""What the interleavings have found: each fault in the smallest test that shows it."""

from __future__ import annotations

import socket
import warnings
from typing import Any

from peers import WAIT
from schedule import Schedule

import tcpsock
from tcpsock._connection.receiving import Receiving
from tcpsock._connection.state import Inbound, Owner, State
from tcpsock._errors import ConnectionLost


def test_R9_a_receive_in_vain_tells_nothing_of_what_came_after_it() -> None:
    """A reset that a write sees, just after the thread has found nothing to receive, must not count
    before the thread has looked again: bytes may have come before the reset."""
    state = State("a.example:1")
    receiving = Receiving(state, mark=100)
    receiving.inbound, receiving.owner = Inbound.READING, Owner.THREAD

    class Wire:
        def recv(self, size: int) -> None:
            state.lost = ConnectionLost("a write has seen the reset")

    wire: Any = Wire()
    receiving.receive_ahead(wire)
    assert state.failure is None
    receiving.inbound, receiving.owner = Inbound.DRAINING, Owner.THREAD
    receiving.receive_ahead(wire)
    assert state.failure is state.lost


def test_E6_a_dropped_socket_warns_also_if_it_is_closed_in_no_time() -> None:
    """Its thread may have ended it before the finalizer goes on."""
    ours, theirs = socket.socketpair()
    with Schedule() as schedule, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sockets = [tcpsock.adopt(ours, allow_half_open=True)]
        closed = sockets[0].closed
        theirs.shutdown(socket.SHUT_WR)
        with sockets[0].readable.get_reader() as reader:
            assert reader.read(timeout=WAIT) == b""
        del reader
        schedule.settle()
        schedule.stop("finalizer", after=3)
        finalizer = schedule.run("finalizer", sockets.clear)
        schedule.settle()
        assert schedule.stopped_at == "after lock"
        assert closed.done()
        schedule.go_on()
        finalizer.result()
    theirs.close()
    assert [str(each.message) for each in caught] == ["unclosed tcpsock.Socket adopted socket"]
