"""Real servers, each started from its Debian package as a private, unprivileged instance.

A server gets a directory of its own under /tmp, free ports on the loopback, and a certificate for
localhost that only the tests trust. Started by root, it runs as nobody. It belongs to the test
session that started it and goes away with it.
"""

from __future__ import annotations

import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import trustme

__all__ = ["Missing", "Place", "Process", "Server", "find", "free_port", "run"]

_START = 30.0  # seconds for a server to be ready; the slowest takes two on a quiet machine
_STOP = 10.0  # seconds for it to end by itself
_PATH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/lib/postgresql/*/bin"]
)


class Missing(Exception):
    """A server isn't installed; the text names its Debian package."""


@dataclass(frozen=True)
class Server:
    """A running server, as a test sees it."""

    port: int  # plain, or StartTLS
    tls_port: int  # TLS at once; 0 where there is none
    ca_data: str  # the one authority to trust, as PEM
    directory: pathlib.Path  # what it serves, or where it puts what it gets
    password: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    @property
    def tls_address(self) -> str:
        return f"localhost:{self.tls_port}"


def find(package: str, *programs: str) -> list[str]:
    """Paths of `programs`, wherever Debian puts them.

    Raises:
        Missing: one isn't there.
    """
    directories: list[str] = []
    for pattern in _PATH.split(os.pathsep):
        plain = "*" not in pattern
        directories += [pattern] if plain else map(str, pathlib.Path("/").glob(pattern[1:]))
    found = [shutil.which(program, path=os.pathsep.join(directories)) for program in programs]
    if None in found:
        raise Missing(f"needs the Debian package {package}")
    return [str(path) for path in found]


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _run_as() -> pwd.struct_passwd:
    """Who the servers run as: nobody if we are root, else who we are."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def _identity() -> dict[str, Any]:
    """What makes subprocess run something as that account."""
    if os.geteuid() != 0:
        return {}
    account = _run_as()
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


class Place:
    """A server's own directory, with its certificate in it; a context manager that removes it."""

    def __init__(self, name: str, authority: trustme.CA) -> None:
        # Not pytest's tmp_path: that one is closed to everybody but us.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f"tcpsock-{name}-"))
        self.account = _run_as()
        self.ca_data = authority.cert_pem.bytes().decode()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        self.cert = self.write("cert.pem", b"".join(p.bytes() for p in certificate.cert_chain_pems))
        self.key = self.write("key.pem", certificate.private_key_pem.bytes(), mode=0o600)
        self.ca = self.write("ca.pem", authority.cert_pem.bytes())
        self._own(self.directory, 0o700)

    def write(self, name: str, content: bytes | str, *, mode: int = 0o644) -> pathlib.Path:
        """A file in it, owned by whom the server runs as."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        self._own(path, mode)
        return path

    def make(self, name: str) -> pathlib.Path:
        """A directory in it, likewise."""
        path = self.directory / name
        path.mkdir()
        self._own(path, 0o700)
        return path

    def _own(self, path: pathlib.Path, mode: int) -> None:
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def run(command: list[str], place: Place) -> None:
    """Run something to its end, as the server would be run. Its output shows if it fails."""
    done = subprocess.run(
        command,
        cwd=place.directory,
        env=_environment(place),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_START,
        **_identity(),
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout}")


class Process:
    """A server's process; a context manager that ends it.

    Args:
        command: must stay in the foreground.
        place: its directory, where its output goes to the file `log`.
        ready: asked again and again until it is true.
        stop: the signal that it takes for an orderly end.
    """

    def __init__(
        self,
        command: list[str],
        place: Place,
        *,
        ready: Callable[[], bool],
        stop: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._stop = stop
        self._log = place.directory / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=place.directory,
                env=_environment(place),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its children end with it
                **_identity(),
            )
        try:
            self._wait_until(ready, command[0])
        except BaseException:
            self.close()
            raise

    def _wait_until(self, ready: Callable[[], bool], program: str) -> None:
        deadline = time.monotonic() + _START
        while not ready():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                how = "ended" if ended else f"was not ready in {_START:g} s"
                raise RuntimeError(f"{program} {how}:\n{self._log.read_text(errors='replace')}")
            time.sleep(0.02)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, and whatever it has started, for good."""
        if self._process.poll() is None:
            self._process.send_signal(self._stop)
            try:
                self._process.wait(_STOP)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nobody left
        self._process.wait()


def _environment(place: Place) -> dict[str, str]:
    """Nothing of ours: no Python path, no locale, no proxy."""
    return {"PATH": os.defpath, "HOME": str(place.directory), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
