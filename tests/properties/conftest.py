"""How long the properties are tried, with which chance, and on which connections.

The short form takes the same examples every time. With TCPSOCK_LONG=1 there are many more, from a
seed that is printed at the end; TCPSOCK_SEED=n takes that one again.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from peers import WAIT, Listener, Peer, ca_data, only

import tcpsock

from . import machines

LONG = bool(os.environ.get("TCPSOCK_LONG"))
SEED = int(os.environ.get("TCPSOCK_SEED") or random.SystemRandom().randrange(1 << 32))

# What a test takes by `settings.get_profile("properties")`. Examples aren't kept: one that fails is
# to become a test of its own.
for_all = settings(
    max_examples=200,
    stateful_step_count=25,
    database=None,
    deadline=None,  # a busy machine is no failure
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    report_multiple_bugs=False,  # the first is enough, where each try takes a connection
    phases=[phase for phase in Phase if phase is not Phase.explain],
)
if LONG:
    for_all = settings(for_all, derandomize=False, max_examples=2000, stateful_step_count=50)
settings.register_profile("properties", for_all)


def pytest_configure(config: pytest.Config) -> None:
    """Keep what hypothesis keeps about Unicode where it is in nobody's way."""
    if config.pluginmanager.hasplugin("cacheprovider"):
        kept = str(config.cache.mkdir("hypothesis"))  # type: ignore[union-attr]
        os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", kept)


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.timeout(900 if LONG else 400))  # to shrink what fails takes long
    if LONG and hasattr(item.obj, "hypothesis"):  # type: ignore[attr-defined]  # functions, all
        hypothesis.seed(SEED)(item.obj)  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LONG:
        terminalreporter.write_line(f"properties: TCPSOCK_LONG=1 TCPSOCK_SEED={SEED}")


@pytest.fixture
def run_machine() -> Callable[..., None]:
    """Runs a state machine: `run_machine(make, examples=1.0)`, a share of the profile's number."""

    def run(make: Callable[[], machines.NotedMachine], *, examples: float = 1.0) -> None:
        if LONG:
            hypothesis.seed(SEED)(make)
        machines.run(make, settings(for_all, max_examples=int(for_all.max_examples * examples)))

    return run


class Connect:
    """Makes connections over one transport or another, each with the peer at its other end."""

    def __init__(self) -> None:
        self._listener = Listener()

    def __call__(
        self, transport: str, *, tls: dict[str, Any] | None = None, **options: Any
    ) -> tuple[tcpsock.Socket, Peer]:
        """`transport` is "plain", "tls12" or "tls13"; `tls` has fields of TlsOptions."""
        if transport != "plain":
            options["secure_transport"] = "on"
            options["tls"] = tcpsock.TlsOptions(**{"ca_data": ca_data(), **(tls or {})})
        sock = tcpsock.connect(self._listener.address, **options)
        peer = self._listener.accept()
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if transport != "plain":
            version = "TLSv1_2" if transport == "tls12" else "TLSv1_3"
            peer.start_tls(only(ssl.TLSVersion[version]))
        sock.opened.result(WAIT)
        return sock, peer

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def connect() -> Iterator[Connect]:
    connect = Connect()
    yield connect
    connect.close()
