"""Servers, scripted peers and a chaos proxy for tests, of tcpsock and of programs that use it.

A test of one's own protocol client, with a server that follows a script::

    def test_quits_politely():
        script = Script(Send(b"220 hello\\r\\n"), Expect(b"QUIT\\r\\n"), Send(b"221 bye\\r\\n"))
        with serve(script) as server:
            with my_client(server.address) as client:
                client.quit()
        assert server.errors == []

with a handler of one's own, over TLS::

    @pytest.fixture
    def echo():
        with serve(lambda sock: sock.sendall(sock.recv(4096)), tls=True) as server:
            yield server

    def test_over_tls(echo):
        my_client(echo.address, ca_data=echo.ca_data)

and through a network that delivers single bytes and then breaks::

    with ChaosProxy(server.address, to_client=[Dribble(1), Reset(100)]) as proxy:
        my_client(proxy.address)

Only loopback is used, no clock decides anything, and nothing is left behind: no thread, no
descriptor, no file. Certificates need trustme (``pip install tcpsock[test]``); the rest needs the
standard library alone. ``docs/testing.rst`` shows all of it.
"""

from __future__ import annotations

from ._certificates import Authority, Certificate, authority, server_context
from ._chaos import (
    ChaosProxy,
    Cuts,
    DelayFin,
    Dribble,
    DropCloseNotify,
    Fin,
    Flip,
    Inject,
    SwallowFin,
)
from ._ports import closed_port, silent_port
from ._script import (
    Dialogue,
    Drain,
    Echo,
    Expect,
    ExpectEof,
    HalfClose,
    Script,
    Send,
    TruncateTls,
    Upgrade,
)
from ._server import Handler, Server, half_close, reset, serve, truncate, upgrade
from ._steps import Reset, Stall

__all__ = [
    "Authority",
    "Certificate",
    "ChaosProxy",
    "Cuts",
    "DelayFin",
    "Dialogue",
    "Drain",
    "Dribble",
    "DropCloseNotify",
    "Echo",
    "Expect",
    "ExpectEof",
    "Fin",
    "Flip",
    "HalfClose",
    "Handler",
    "Inject",
    "Reset",
    "Script",
    "Send",
    "Server",
    "Stall",
    "SwallowFin",
    "TruncateTls",
    "Upgrade",
    "authority",
    "closed_port",
    "half_close",
    "reset",
    "serve",
    "server_context",
    "silent_port",
    "truncate",
    "upgrade",
]
