"""What was measured, for people (a table) and for programs (a JSON document)."""

from __future__ import annotations

import os
import platform
import ssl
from collections.abc import Sequence

import tcpsock

from ._measure import Row

__all__ = ["Facts", "document", "machine", "table"]

Facts = dict[str, str | int | float | None]

_NOISE = 0.10  # raw against raw off by more than this: the figures tell little

_HEAD = ("", "{subject}", "{baseline}", "unit", "ratio", "quartiles", "least-most", "CPU")
_LEGEND = """\
ratio      how much better {subject} is, above 1: median of {rounds} rounds, measured in turn
quartiles  the middle half of these ratios; least-most: all of them
CPU        CPU seconds of the client's process for the same work, {subject} to {baseline}"""


def machine() -> Facts:
    """What the figures depend on."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    return {
        "tcpsock": tcpsock.__version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "openssl": ssl.OPENSSL_VERSION,
        "platform": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cores": cores,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def table(rows: Sequence[Row], rounds: int, facts: Facts) -> str:
    """The table with its heading, its legend and its warnings; plain ASCII."""
    rows = sorted(rows, key=_is_noise)
    subject, baseline = rows[0].subject, rows[0].baseline
    cells = [tuple(cell.format(subject=subject, baseline=baseline) for cell in _HEAD)]
    section = ""
    for row in rows:
        if _section(row) != section:
            section = _section(row)
            cells.append((section,))
        cells.append(_cells(row))
    return "\n".join(
        [
            *_heading(facts),
            "",
            *_aligned(cells),
            "",
            _LEGEND.format(subject=subject, baseline=baseline, rounds=rounds),
            *_warnings(rows),
        ]
    )


def document(
    rows: Sequence[Row],
    rounds: int,
    seconds: float,
    facts: Facts,
) -> dict[str, object]:
    """All that the table says and every single ratio, ready for json.dump()."""
    return {
        "machine": facts,
        "rounds": rounds,
        "seconds": round(seconds, 3),
        "warnings": _warnings(rows),
        "rows": [
            {
                "work": row.lane.work.name,
                "transport": row.lane.transport,
                "figure": row.figure.name,
                "unit": row.figure.unit,
                "subject": row.subject,
                "baseline": row.baseline,
                "noise": _is_noise(row),
                "amount": row.lane.amount,
                "subject_value": row.subject_value,
                "baseline_value": row.baseline_value,
                "ratio": row.spread.median,
                "quartiles": [row.spread.low, row.spread.high],
                "range": [row.spread.least, row.spread.most],
                "ratios": row.ratios,
                "cpu_ratio": row.cpu_ratio,
                "subject_cpu_seconds": row.subject_cpu,
                "baseline_cpu_seconds": row.baseline_cpu,
            }
            for row in rows
        ],
    }


def _is_noise(row: Row) -> bool:
    return row.subject == f"{row.baseline} again"


def _section(row: Row) -> str:
    if _is_noise(row):
        return f"noise: {row.baseline} against itself"
    return row.lane.transport


def _cells(row: Row) -> tuple[str, ...]:
    several = len(row.lane.work.figures) > 1
    title = f"{row.lane.work.title}, {row.figure.name}" if several else row.lane.work.title
    if _is_noise(row):
        title = f"{row.lane.transport}, {title}"
    spread = row.spread
    return (
        f"  {title}",
        _three_digits(row.subject_value),
        _three_digits(row.baseline_value),
        row.figure.unit,
        f"{spread.median:.2f}",
        f"{spread.low:.2f}-{spread.high:.2f}",
        f"{spread.least:.2f}-{spread.most:.2f}",
        "?" if row.cpu_ratio is None else f"{row.cpu_ratio:.2f}",
    )


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _aligned(cells: Sequence[tuple[str, ...]]) -> list[str]:
    """The first column and the units to the left, numbers to the right."""
    columns = len(cells[0])
    full = [line for line in cells if len(line) == columns]
    widths = [max(len(line[column]) for line in full) for column in range(columns)]
    unit = cells[0].index("unit")
    return [
        "  ".join(
            text.ljust(width) if column in (0, unit) else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=False))
        ).rstrip()
        for line in cells
    ]


def _heading(facts: Facts) -> list[str]:
    load = "" if facts["load"] is None else f", load {facts['load']}"
    return [
        f"tcpsock {facts['tcpsock']} on the loopback, the servers in a process of their own",
        f"{facts['implementation']} {facts['python']}, {facts['openssl']}",
        f"{facts['platform']} {facts['machine']}, {facts['cores']} cores{load}",
    ]


def _warnings(rows: Sequence[Row]) -> list[str]:
    return [
        f"warning: a noisy machine: {row.baseline} against itself gives {row.spread.median:.2f} "
        f"({row.lane.title})"
        for row in rows
        if _is_noise(row)
        and row.figure is row.lane.work.figures[0]  # the further ones are noisy by their nature
        and abs(row.spread.median - 1) > _NOISE
    ]
