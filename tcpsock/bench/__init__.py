"""``python -m tcpsock.bench``: what the comfort of tcpsock costs on this machine.

The command measures tcpsock beside the raw blocking socket on servers of its own, and prints
ratios with their spread. From top to bottom:

- ``__main__``: the command line: what to measure, and how it ends
- ``_report``: the table and the JSON document
- ``_measure``: who is measured when: all peers in turn, round after round
- ``_works``: what is measured, and the figures that each work gives
- ``_peers``: who is measured; one module a peer, with one function for each work
- ``_server``: the other side, in a process of its own
- ``_protocol``: what the peers and the server say to each other
- ``_statistics``, ``_progress``, ``_certificate``: what their names say
"""

from __future__ import annotations

__all__: list[str] = []
