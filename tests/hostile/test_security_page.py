"""docs/security.rst: each test that it names exists, and its recipes do what it says."""

from __future__ import annotations

import ast
import re
import ssl
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peers import WAIT, Call, Listener, Peer, ca_data

import tcpsock
from tcpsock.testing import server_context
from tests.hostile.odd_certificates import Holder, root
from tests.hostile.outcomes import refusal

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "security.rst").read_text()
NAMED = re.findall(r"``([\w/]+\.py)::(\w+)``", PAGE)
SECTIONS = dict(re.findall(r"^(\S.*)\n-{3,}\n((?:.*\n(?!.*\n-{3,}\n))*)", PAGE, re.MULTILINE))
WITHOUT_TESTS = {"Reporting a fault"}


def _functions(path: Path) -> set[str]:
    """Names of the test functions in a file."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_page_names_exists() -> None:
    assert len(NAMED) > 60
    gone = [
        f"{file}::{name}"
        for file, name in NAMED
        if not (TESTS / file).exists() or name not in _functions(TESTS / file)
    ]
    assert not gone


def test_every_section_names_tests() -> None:
    assert len(SECTIONS) > 9
    bare = {title for title, text in SECTIONS.items() if ".py::" not in text}
    assert bare == WITHOUT_TESTS


def test_every_mention_of_a_test_is_one_that_is_checked() -> None:
    """One that is misspelt would be overlooked."""
    assert len(re.findall(r"::test_|\.py", PAGE)) == 2 * len(NAMED)


def _recipe(name: str) -> Callable[..., Any]:
    """A function that the page defines."""
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:(?:   .*)?\n)+)", PAGE)
    [block] = [textwrap.dedent(block) for block in blocks if f"def {name}(" in block]
    names: dict[str, Any] = {}
    exec(compile(block, "security.rst", "exec"), names)
    function: Callable[..., Any] = names[name]
    return function


# Revocation


@pytest.mark.parametrize("revoked", [False, True], ids=["good", "revoked"])
def test_the_context_with_revocation_lists(dial: Any, tmp_path: Path, revoked: bool) -> None:
    """An intermediate that is revoked is refused, and another accepted."""
    top = root()
    middle = top.authority()
    context = _checking_revocation(tmp_path, top, middle, revoked=[middle] if revoked else [])
    sock = dial(tls={"ssl_context": context})
    peer = dial.accept(Peer)
    leaf = middle.issue("127.0.0.1")
    if revoked:
        with pytest.raises(ssl.SSLError):
            peer.start_tls(server_context(leaf.shown(middle)))
        refusal(sock, "certificate revoked", tcpsock.TlsVerificationError)
    else:
        peer.start_tls(server_context(leaf.shown(middle)))
        assert sock.opened.result(WAIT).tls_version


def _checking_revocation(
    directory: Path, top: Holder, middle: Holder, revoked: list[Holder]
) -> ssl.SSLContext:
    roots, lists = directory / "roots.pem", directory / "lists.pem"
    roots.write_text(top.pem)
    lists.write_text(top.revokes(*revoked) + middle.revokes())
    context: ssl.SSLContext = _recipe("checking_revocation")(roots, lists)
    return context


# StartTLS


@pytest.mark.parametrize("answer", [b"502 no\r\n", b"\r\n", b""], ids=["no", "nothing", "gone"])
def test_the_upgrade_that_refuses_to_be_stripped(listener: Listener, answer: bytes) -> None:
    """Nothing is sent behind the question, and no plain socket comes back."""
    plain = tcpsock.connect(
        listener.address, secure_transport="starttls", tls=tcpsock.TlsOptions(ca_data=ca_data())
    )
    peer = listener.accept()
    upgrading = Call(_recipe("upgraded"), plain)
    assert peer.read_exactly(10) == b"STARTTLS\r\n"
    if answer:
        peer.send(answer)
    else:
        peer.end()
    assert isinstance(upgrading.error(), ConnectionError)
    assert peer.read_to_the_end()[0] == b""
    assert isinstance(plain.closed.exception(WAIT), (tcpsock.SocketAborted, type(None)))
    peer.close()


def test_the_upgrade_when_the_server_agrees(listener: Listener) -> None:
    plain = tcpsock.connect(
        listener.address, secure_transport="starttls", tls=tcpsock.TlsOptions(ca_data=ca_data())
    )
    peer = listener.accept()
    upgrading = Call(_recipe("upgraded"), plain)
    assert peer.read_exactly(10) == b"STARTTLS\r\n"
    peer.send(b"220 go ahead\r\n")
    peer.start_tls(server_context())
    with upgrading.result() as secure:
        secure.writable.get_writer().write(b"PASS s3cret\r\n")
        assert peer.read_exactly(13) == b"PASS s3cret\r\n"
        peer.end()
    peer.close()
