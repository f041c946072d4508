"""Bars: what was wanted, what was found, and whether that is enough; how they print, and the exit code they give."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Bar:
    """A figure that is wanted.

    Attributes:
        name: what was measured.
        value: what was found.
        bound: the most it may be, or the least.
        is_most: whether the bound is the most.
        unit: of both.
    """

    name: str
    value: float
    bound: float
    is_most: bool = True
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """Whether it is enough; what is not a number is not."""
        return self.value <= self.bound if self.is_most else self.value >= self.bound

    def __str__(self) -> str:
        sign, unit = "<=" if self.is_most else ">=", f" {self.unit}" if self.unit else ""
        return f"{'met' if self.is_met else 'MISSED':6} {self.name}: {self.value:.4g}{unit}, wanted {sign} {self.bound:.4g}{unit}"


@dataclass
class Report:
    """What a command found: bars and figures."""

    title: str
    bars: list[Bar] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def at_most(self, name: str, value: float, bound: float, unit: str = "") -> None:
        """Add a bar that a value may not pass."""
        self._add(Bar(name, value, bound, is_most=True, unit=unit))

    def at_least(self, name: str, value: float, bound: float, unit: str = "") -> None:
        """Add a bar that a value must reach."""
        self._add(Bar(name, value, bound, is_most=False, unit=unit))

    def _add(self, bar: Bar) -> None:
        self.bars.append(bar)
        print(bar, flush=True)

    def finish(self, path: Path | None = None) -> int:
        """Print the verdict, write everything to a file if one is given, and return the exit code: 0 if every bar is met."""
        missed = [bar for bar in self.bars if not bar.is_met]
        if path:
            found = {"title": self.title, "bars": [asdict(bar) | {"is_met": bar.is_met} for bar in self.bars], **self.figures}
            path.write_text(json.dumps(found, indent=2, default=_plain) + "\n")
        print(
            f"{self.title}: {len(self.bars) - len(missed)} of {len(self.bars)} bars met" + "".join(f"\n  {bar}" for bar in missed)
        )
        return 1 if missed else 0


def _plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) else str(value)


class Progress:
    """Tells on stderr, now and then, how far a command is."""

    def __init__(self, interval_s: float = 10.0) -> None:
        self._interval_s = interval_s
        self._began_s = self._last_s = time.monotonic()

    def tell(self, text: str) -> None:
        """Print a text, unless the last one is too recent."""
        now_s = time.monotonic()
        if now_s - self._last_s >= self._interval_s:
            self._last_s = now_s
            print(f"[{now_s - self._began_s:5.0f} s] {text}", file=sys.stderr, flush=True)
