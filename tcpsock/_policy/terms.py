"""What policies are made of and answer with; the rest is imported with the first policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Check", "Decision", "Preset"]

Check = Callable[[str, int, str], "bool | str"]
Preset = Literal["public_internet", "workers"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy says to a host, a port and its addresses. True if the connection may be made.

    `str()` is the reason. It may name internal addresses: don't show it to strangers.
    """

    allowed: bool
    """Whether anything may be dialled."""
    code: str | None
    """Which question said no, as `PolicyViolation.code` has it; None if allowed."""
    reason: str
    """Why, for whoever runs the program."""
    addresses: tuple[str, ...]
    """Those that may be dialled, in their order; none as long as none is known."""
    refused: tuple[tuple[str, str], ...]
    """Those that may not, each with the reason."""

    def __bool__(self) -> bool:
        return self.allowed

    def __str__(self) -> str:
        return self.reason
