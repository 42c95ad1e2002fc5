"""D3: the Python of the pages runs.

The README's, block after block, against stand-ins for the hosts that it names. The page on testing
is a test module, and passes.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from tcpsock.testing import Handler, authority, serve, server_context, upgrade

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.rst"


def python_blocks(page: pathlib.Path) -> list[str]:
    found = re.findall(r"^\.\. code-block:: python\n\n((?:(?: {3}.*)?\n)+)", page.read_text(), re.M)
    return [textwrap.dedent(block) for block in found]


def web(sock: socket.socket) -> None:
    with sock.makefile("rb") as stream:
        while stream.readline().strip():
            pass
    sock.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello")


def gopher(sock: socket.socket) -> None:
    with sock.makefile("rb") as stream:
        sock.sendall(b"You asked for " + stream.read())


def database(sock: socket.socket) -> None:
    assert len(sock.recv(8)) == 8
    sock.sendall(b"S")
    upgrade(sock, server_context(authority().issue("db.example"))).recv(1)


def mail(sock: socket.socket) -> None:
    sock.sendall(b"220 mail.example ESMTP\r\n")
    sock.recv(1)


def irc(sock: socket.socket) -> None:
    sock.recv(1)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[None]:
    """Give each host name of the README a server of its own, and trust its certificate."""
    ports: dict[str, int] = {}

    def look_up(host: str, *ignored: Any, **too: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", ports[host]))]

    with contextlib.ExitStack() as servers:

        def start(host: str, handler: Handler, *, tls: bool = False) -> None:
            context = server_context(authority().issue(host), alpn=["smtp"]) if tls else False
            ports[host] = servers.enter_context(serve(handler, tls=context)).port

        start("example.com", web, tls=True)
        start("gopher.example", gopher)
        start("db.example", database)
        start("mail.example", mail, tls=True)
        start("irc.example", irc)
        roots = tmp_path / "roots.pem"
        roots.write_text(authority().ca_data)
        monkeypatch.setenv("SSL_CERT_FILE", str(roots))
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        yield


def test_D3_the_readme_runs(stand_ins: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Each block does what the text around it says."""
    names: dict[str, Any] = {}

    def run(block: str) -> str:
        exec(compile(block, str(README), "exec"), names)
        return capsys.readouterr().out

    first, page, starttls, errors, closing = python_blocks(README)
    printed = run(first)
    assert printed.startswith("HTTP/1.0 200 OK\n") and "5 bytes of the page" in printed

    run(page)
    answered: list[Any] = []
    body = names["application"]({"PATH_INFO": "/about"}, lambda *answer: answered.append(answer))
    assert b"".join(body) == b"You asked for /about\r\n"
    assert answered == [("200 OK", [("Content-Type", "text/plain")])]
    body.close()

    assert re.match(r"TLSv1\.3 \S+ [0-9a-f]{64}$", run(starttls))
    assert run(errors) == "b'220 mail.example ESMTP\\r\\n'\n"
    assert run(closing).startswith("this fails: ")


def test_D3_the_page_on_testing_passes(tmp_path: pathlib.Path) -> None:
    """As its reader would run it, by a pytest that knows nothing of this project's own tests."""
    blocks = python_blocks(ROOT / "docs" / "testing.rst")
    module = tmp_path / "test_phonebook.py"
    module.write_text("\n".join(blocks))
    done = subprocess.run(
        [*(sys.executable, "-X", "dev", "-m", "pytest", "-W", "error"), f"--rootdir={tmp_path}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # the tcpsock that is tested here
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= "".join(blocks).count("def test_"), done.stdout
