"""A resolver in the test's hands, and a guard that nothing outside of the loopback is dialled."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator

import pytest

from tcpsock._dialing import race

from .network import Dials, QuietListener, Zone


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Zone:
    zone = Zone()
    monkeypatch.setattr(socket, "getaddrinfo", zone.getaddrinfo)
    return zone


@pytest.fixture(autouse=True)
def dials(monkeypatch: pytest.MonkeyPatch) -> Dials:
    dials = Dials(race._dial)
    monkeypatch.setattr(race, "_dial", dials)
    return dials


@pytest.fixture
def listener() -> Iterator[QuietListener]:
    listener = QuietListener()
    yield listener
    listener.close()


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """What `tcpsock.policy` logs."""
    kept: list[logging.LogRecord] = []
    handler, logger = logging.Handler(), logging.getLogger("tcpsock.policy")
    handler.emit = kept.append  # type: ignore[method-assign]  # the least of handlers
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield kept
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
