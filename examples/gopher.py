"""Fetch a page from a Gopher server: one line out, everything back, and the end is the end.

    python examples/gopher.py                       from a stand-in that it starts itself
    python examples/gopher.py HOST:PORT [SELECTOR]  for instance gopher.floodgap.com:70

RFC 1436 in one sentence: send a selector and CR LF, then read until the server hangs up.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tcpsock import SocketError, connect


def fetch(address: str, selector: str = "") -> Iterator[bytes]:
    """Yield a page in pieces, as they arrive; the empty selector is the server's own menu."""
    with connect(address, timeout=10) as sock:
        writer = sock.writable.get_writer()
        writer.write(selector.encode() + b"\r\n")
        writer.close()  # half-close: the server sees that this was all, and we go on reading
        yield from sock.readable


def show(address: str, selector: str = "") -> None:
    for chunk in fetch(address, selector):
        sys.stdout.buffer.write(chunk)


def main() -> None:
    if len(sys.argv) > 1:
        show(*sys.argv[1:3])
    else:
        import stand_ins

        with stand_ins.gopher() as server:
            show(server.address)


if __name__ == "__main__":
    try:
        main()
    except SocketError as error:
        sys.exit(f"gopher: {error}")
