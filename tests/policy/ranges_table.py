"""The table of special ranges in docs/policy.rst, made from the code.

python tests/policy/ranges_table.py     writes it anew
"""

from __future__ import annotations

from pathlib import Path

from tcpsock._policy.ranges import IPV4, IPV6, MORE, REGISTRY_DATE

PAGE = Path(__file__).parents[2] / "docs" / "policy.rst"
BEGIN, END = ".. ranges begin\n", ".. ranges end\n"


def table() -> str:
    """As reStructuredText."""
    parts = []
    for title, blocks in (
        (f"IANA IPv4 Special-Purpose Address Registry, as of {REGISTRY_DATE}", IPV4),
        (f"IANA IPv6 Special-Purpose Address Registry, as of {REGISTRY_DATE}", IPV6),
        ("And besides", MORE),
    ):
        rows = [("Range", "Name", "Source", "Since")]
        rows += [(f"``{net}``", name, source, since) for net, name, source, since in blocks]
        columns = 4 if blocks[0].since else 3
        widths = [max(len(row[column]) for row in rows) for column in range(columns)]
        rule = "  ".join("=" * width for width in widths)
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        body = "\n".join(["", rule, lines[0], rule, *lines[1:], rule])
        parts.append(f"\n.. table:: {title}\n" + body.replace("\n", "\n   ").replace("   \n", "\n"))
    return "\n".join(parts) + "\n\n"


def between(page: str) -> str:
    """What stands there now."""
    return page.partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2])
