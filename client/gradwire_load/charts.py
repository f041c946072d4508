"""Charts as SVG text: lines and points over scales. Colours and fonts are those of the page, by class."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GAP = 1e-12


@dataclass(frozen=True, slots=True)
class Frame:
    """The space of a chart, in pixels as it is usually shown, so that text has one size in all charts.

    Attributes:
        width: its width.
        height: its height.
        left: what the names of the vertical ticks take of it.
    """

    width: float
    height: float
    left: float = 58.0

    @property
    def across(self) -> tuple[float, float]:
        """Where horizontal scales begin and end."""
        return self.left, self.width - 14.0

    @property
    def upward(self) -> tuple[float, float]:
        """Where vertical scales begin and end: at the bottom, and at the top."""
        return self.height - 28.0, 10.0


WIDE = Frame(1080.0, 360.0)
WIDE_LOW = Frame(1080.0, 240.0)
HALF = Frame(520.0, 250.0)
SMALL = Frame(340.0, 170.0, 50.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis: from values to pixels.

    Attributes:
        low: the value at its beginning.
        high: the value at its end.
        start: the pixel of its beginning.
        stop: the pixel of its end.
        ticks: values and what they are called.
        is_log: whether equal ratios are equally far apart.
    """

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False

    def place(self, value: float) -> float:
        """Return the pixel of a value; one outside is put at the end."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / max(high - low, GAP)
        return round(self.start + share * (self.stop - self.start), 1)


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together.

    Attributes:
        name: what they are.
        points: x and y; where y is None the line is broken.
        colour: the number of its colour.
        kind: `line`, `area`, `dashed` or `dots`.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int = 0
    kind: str = "line"


@dataclass(frozen=True, slots=True)
class Mark:
    """A level across the chart.

    Attributes:
        value: where.
        text: what it is.
    """

    value: float
    text: str


def linear(low: float, high: float, ends: tuple[float, float], unit: str = "", count: int = 5, *, is_rounded: bool = True) -> Scale:
    """Return a linear scale with round ticks.

    Args:
        low: its beginning.
        high: its end.
        ends: their pixels.
        unit: put behind the numbers.
        count: about how many ticks there are.
        is_rounded: whether its end is moved to a tick.
    """
    high = high if high > low else low + 1.0
    step = _round_step((high - low) / count)
    high = low + math.ceil((high - low) / step - 1e-9) * step if is_rounded else high
    ticks = [low + step * number for number in range(math.floor((high - low) / step + 1e-9) + 1)]
    return Scale(low, high, *ends, tuple((value, f"{number_text(value)}{unit}") for value in ticks))


def logarithmic(low: float, high: float, ends: tuple[float, float], unit: str = "", *, is_rounded: bool = True) -> Scale:
    """Return a logarithmic scale with ticks at 1, 2 and 5, or powers of ten where there are many."""
    low, high = max(low, GAP), max(high, low * 1.5, GAP)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    leads = (1, 2, 5) if last - first <= 4 else (1,)
    values = [lead * 10.0**power for power in range(first, last + 1) for lead in leads]
    inner = [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
    if is_rounded:
        low = max((value for value in values if value <= low * (1 + 1e-9)), default=low)
        high = min((value for value in values if value >= high * (1 - 1e-9)), default=high)
        inner = [low, *inner, high]
    ticks = sorted(set(inner))
    return Scale(low, high, *ends, tuple((value, f"{number_text(value)}{unit}") for value in ticks), is_log=True)


def percentiles(highest: float, ends: tuple[float, float]) -> Scale:
    """Return the scale of percentiles, on which each further nine is as far as the one before.

    Args:
        highest: the last percentile that is told apart from 100.
        ends: the pixels of its beginning and end.
    """
    nines = [(1.0, "min"), (2.0, "50 %"), (10.0, "90 %"), (100.0, "99 %")]
    nines += [(10.0**power, f"99.{'9' * (power - 2)} %") for power in range(3, 8)]
    last = max(100.0, 100.0 / max(100.0 - highest, 1e-5))
    return Scale(1.0, last, *ends, tuple(item for item in nines if item[0] <= last), is_log=True)


def draw(
    frame: Frame,
    series: Sequence[Series],
    x: Scale,
    y: Scale,
    *,
    marks: Sequence[Mark] = (),
    labels: Sequence[str] = (),
    unit: str = "",
    title: str = "",
) -> str:
    """Return a chart, with the data that the page's script needs to tell the values under the pointer.

    Args:
        frame: its space.
        series: what is drawn, the first at the bottom.
        x: the horizontal scale.
        y: the vertical scale.
        marks: levels across.
        labels: what the horizontal places of the longest series are called; by default their values.
        unit: of the values.
        title: for those who cannot see it.
    """
    parts = [f'<svg viewBox="0 0 {frame.width:g} {frame.height:g}" role="img" aria-label="{html.escape(title, quote=True)}">']
    parts += _grid(x, y)
    parts += [text for item in series for text in _shape(item, x, y)]
    for mark in marks:
        if y.low <= mark.value <= y.high:
            level = y.place(mark.value)
            parts.append(f'<line class="mark" x1="{x.start:g}" x2="{x.stop:g}" y1="{level}" y2="{level}"/>')
            parts.append(f'<text class="mark-text" x="{x.stop - 4:g}" y="{level - 5}">{html.escape(mark.text)}</text>')
    parts.append(f'<line class="cursor" x1="0" x2="0" y1="{y.stop:g}" y2="{y.start:g}"/>')
    parts.append("</svg>")
    return f'<div class="plot">{"".join(parts)}{_hover(series, x, y, labels, unit)}</div>{legend(series)}'


def legend(series: Sequence[Series]) -> str:
    """Return the names of series beside their colours; nothing for a single one without a name."""
    named = [item for item in series if item.name]
    if len(named) < 2:  # one needs no telling apart
        return ""
    keys = "".join(f'<li class="{item.kind} c{item.colour}">{html.escape(item.name)}</li>' for item in named)
    return f'<ul class="legend">{keys}</ul>'


def number_text(value: float) -> str:
    """Return a number in few characters: 0.25, 12, 3.4k, 5M."""
    size = abs(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            scaled = value / (1e3 if letter == "k" else limit)
            return f"{scaled:.3g}{letter}"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if size >= 1e-3 or size == 0 else f"{value:.1e}"


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(max(step, GAP)))
    return next(lead * power for lead in (1.0, 2.0, 2.5, 5.0, 10.0) if lead * power >= step * (1 - 1e-9))


def _grid(x: Scale, y: Scale) -> Iterator[str]:
    for value, text in y.ticks:
        level = y.place(value)
        yield f'<line class="grid" x1="{x.start:g}" x2="{x.stop:g}" y1="{level}" y2="{level}"/>'
        yield f'<text class="tick y" x="{x.start - 8:g}" y="{level + 4}">{html.escape(text)}</text>'
    for value, text in x.ticks:
        place = x.place(value)
        yield f'<line class="grid x" x1="{place}" x2="{place}" y1="{y.stop:g}" y2="{y.start:g}"/>'
        yield f'<text class="tick x" x="{place}" y="{y.start + 19:g}">{html.escape(text)}</text>'
    yield f'<line class="axis" x1="{x.start:g}" x2="{x.stop:g}" y1="{y.start:g}" y2="{y.start:g}"/>'


def _shape(series: Series, x: Scale, y: Scale) -> Iterator[str]:
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in series.points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((x.place(at), y.place(value)))
    for run in filter(None, runs):
        if series.kind == "dots" or len(run) == 1:
            yield from (
                f'<circle class="dot c{series.colour}" cx="{left}" cy="{top}" r="{5 if series.kind == "dots" else 3}"/>'
                for left, top in run
            )
            continue
        path = "M" + "L".join(f"{left} {top}" for left, top in run)
        if series.kind == "area":
            yield f'<path class="area c{series.colour}" d="{path}L{run[-1][0]} {y.start:g}L{run[0][0]} {y.start:g}Z"/>'
        yield f'<path class="{"dashed" if series.kind == "dashed" else "line"} c{series.colour}" d="{path}"/>'


def _hover(series: Sequence[Series], x: Scale, y: Scale, labels: Sequence[str], unit: str) -> str:
    """Return the data of a chart, for the script of the page."""
    longest = max(series, key=lambda item: len(item.points), default=None)
    if longest is None or not longest.points:
        return ""
    places = [at for at, _ in longest.points]
    names = list(labels) or [number_text(at) for at in places]
    rows = []
    for item in series:
        found = dict(item.points)
        values = [found.get(at) for at in places]
        rows.append(
            {
                "name": item.name,
                "colour": item.colour,
                "texts": [None if value is None else f"{number_text(value)}{unit}" for value in values],
                "y": [None if value is None else y.place(value) for value in values],
            }
        )
    data = {"x": [x.place(at) for at in places], "labels": names, "series": rows}
    return f'<script type="application/json" class="points">{script_json(data)}</script>'


def script_json(data: object) -> str:
    """Return JSON that may stand within a script element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
