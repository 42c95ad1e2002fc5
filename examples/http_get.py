"""Get a page over HTTP/1.0: read the head line by line, then let the body stream into a file.

    python examples/http_get.py                    from a stand-in that it starts itself
    python examples/http_get.py HOST:PORT [PATH]   over TLS if the port is 443

HTTP/1.0 ends an answer by hanging up, so the request can be ended by hanging up our side too.
The end alone doesn't tell a whole answer from one that was cut off; Content-Length does. Some
servers take the half-close for a client that has lost interest (nginx does, while it still has more
to send than the kernel takes, and over TLS it then ends without a close_notify): for these,
`half_close=False`.
"""

from __future__ import annotations

import sys
from typing import BinaryIO

from tcpsock import IncompleteRead, Socket, SocketError, connect


def request(
    sock: Socket, host: str, path: str, *, half_close: bool = True
) -> tuple[str, dict[str, str]]:
    """Ask for `path`; return the status line and the headers, with their names in lower case."""
    with sock.writable.get_writer() as writer:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        if half_close:
            writer.close()  # the server sees that this was all, and we go on reading
    headers = {}
    with sock.readable.get_reader() as reader:  # gives the stream back at its end
        status = reader.readline().decode("latin-1").rstrip()
        while line := reader.readline().decode("latin-1").rstrip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
    return status, headers


def save(sock: Socket, headers: dict[str, str], out: BinaryIO) -> int:
    """Stream the body into `out` and return its length."""
    moved = sock.readable.pipe_to(out)
    expected = int(headers.get("content-length", moved))
    if moved < expected:
        raise IncompleteRead(f"{moved} of {expected} bytes arrived", expected=expected)
    return moved


def show(address: str, path: str = "/") -> None:
    host, _, port = address.rpartition(":")
    secure = port == "443"
    with connect(address, secure_transport="on" if secure else "off", timeout=10) as sock:
        status, headers = request(sock, host, path, half_close=not secure)
        print(status, flush=True)
        moved = save(sock, headers, sys.stdout.buffer)
    print(f"({moved} bytes of {headers.get('content-type', 'something')})")


def main() -> None:
    if len(sys.argv) > 1:
        show(*sys.argv[1:3])
    else:
        import stand_ins

        with stand_ins.http() as server:
            show(server.address)


if __name__ == "__main__":
    try:
        main()
    except SocketError as error:
        sys.exit(f"http_get: {error}")
