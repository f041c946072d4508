"""The report of a run: one page of HTML with everything in it, drawn from the result alone. It needs no network, and no script."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from gradwire_load.charts import (
    HALF,
    SMALL,
    WIDE,
    WIDE_LOW,
    Frame,
    Mark,
    Scale,
    Series,
    draw,
    linear,
    logarithmic,
    number_text,
    percentiles,
    script_json,
)

LOG_FROM = 20.0  # a ratio of largest to least latency from which the scale is logarithmic
_TONES = {"passed": "good", "missed": "bad", "wrong": "bad", "invalid": "warn", "stopped": "warn"}


def render(result: dict[str, Any]) -> str:
    """Return the page of a result.

    Args:
        result: as `gradwire_load.result.summarize` returns it, or as read from the JSON file that was made of it.

    Raises:
        KeyError: it is something else.
    """
    scenario = result["scenario"]
    folder = resources.files("gradwire_load")
    style, script = ((folder / name).read_text("utf-8") for name in ("report.css", "report.js"))
    parts = [
        _tiles(result),
        _objectives(result["slo"]),
        _search(result["search"], result["slo"]),
        _percentiles(result),
        f'<div class="pair">{_throughput(result)}{_latency(result)}</div>',
        _errors(result),
        _operations(result["operations"]),
        _metrics(result["metrics"], result["settings"]["duration_s"]),
        _generator(result),
        _facts(result),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(scenario['title'])}: gradwire load</title><style>{style}</style></head>\n<body>{_header(result)}"
        f"<main>{''.join(parts)}<footer>gradwire load {_text(result['gradwire'])}, {_text(result['ended_at'])}</footer></main>"
        f'<script type="application/json" id="result">{script_json(result)}</script><script>{script}</script></body></html>\n'
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _section(title: str, body: str, note: str = "") -> str:
    shown = f'<p class="note">{note}</p>' if note else ""
    return f'<section class="{title.partition(" ")[0].lower()}"><h2>{_text(title)}</h2>{shown}{body}</section>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 1) -> str:
    """Return a table; the columns from `numbers` on hold numbers."""

    def cells(tag: str, items: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=n' if place >= numbers else ''}>{item}</{tag}>" for place, item in enumerate(items))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells("th", heads)}</tr></thead><tbody>{body}</tbody></table></div>'


def _sign(text: str) -> str:
    """Return an objective with the signs of mathematics."""
    return text.replace("<=", "≤").replace(">=", "≥")


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100.0 else f"{value:,.0f}"


def _load_text(settings: dict[str, Any]) -> str:
    unit = " under way" if settings["arrivals"] == "closed" else "/s"
    levels = " → ".join(f"{step['level']:.4g}" for step in settings["steps"])
    kind = {"poisson": "Poisson arrivals", "uniform": "evenly spaced arrivals", "closed": "a closed loop"}[settings["arrivals"]]
    return f"{kind}, {levels}{unit}"


def _header(result: dict[str, Any]) -> str:
    scenario, settings, server, verdict = result["scenario"], result["settings"], result["server"], result["verdict"]
    mode = "unary calls" if settings["mode"] == "unary" else "sessions"
    workers = f" with {server['workers']} workers" if server.get("workers") else ""
    where = (
        f"<b>{_text(result['target'])}</b>, gradwire {_text(server.get('version', '?'))}{workers} · "
        f"{_load_text(settings)} · {mode} · "
        f"{settings['duration_s']:.0f} s after {settings['warmup_s']:g} s of warm-up"
    )
    tone = _TONES.get(verdict["name"], "warn")
    said = _text(_sign(verdict["text"].removeprefix("Missed ")))
    return (
        f'<header><div><div><h1>{_text(scenario["title"])}</h1><p class="about">{_text(scenario["about"])}</p>'
        f'<p class="where">{where}</p></div><button class="theme" type="button">Dark or light</button></div></header>'
        f'<main><p class="verdict {tone}"><b>{_text(verdict["name"])}</b><span>{said}</span></p></main>'
    )


def _tiles(result: dict[str, Any]) -> str:
    requests, latency, generator = result["requests"], result["latency_ms"], result["generator"]
    offered = requests["offered_per_s"]
    share = requests["failed"] / max(requests["ended"], 1)
    tiles = [
        (
            "Throughput",
            f"{number_text(requests['answered_per_s'])} <small>/s</small>",
            f"of {number_text(offered)}/s offered" if offered else "closed loop",
            "",
        ),
        *(
            (f"Latency {name}", f"{_ms(latency[name])} <small>ms</small>", note, "")
            for name, note in (
                ("p50", "half are faster"),
                ("p99", "99 of 100 are faster"),
                ("p99.9", f"worst {_ms(latency['max'])} ms"),
            )
        ),
        (
            "Failed",
            f"{share * 100:.3g} <small>%</small>",
            f"{requests['failed']:,} of {requests['ended']:,}",
            "bad" if share else "",
        ),
        (
            "Sent late",
            f"{generator['late_share'] * 100:.2g} <small>%</small>",
            f"by more than {generator['late_ms']:g} ms",
            "bad" if generator["late_share"] > 0.01 and offered else "",
        ),
    ]
    shown = "".join(
        f'<div class="tile {tone}"><dt>{name}</dt><dd>{value}</dd><p>{note}</p></div>' for name, value, note, tone in tiles
    )
    return f'<dl class="tiles">{shown}</dl>'


def _objectives(slo: Sequence[dict[str, Any]]) -> str:
    if not slo:
        return ""
    rows = [
        (
            _text(_sign(item["objective"])),
            _text(item["measured"]),
            f'<span class="{"met" if item["met"] else "missed"}">{"✓ met" if item["met"] else "✗ missed"}</span>',
        )
        for item in slo
    ]
    return _section("Objectives", _table(("objective", "measured", ""), rows, 3))


# -- latency and throughput ----------------------------------------------------------------------------------------------------


def _vertical(frame: Frame, values: Sequence[float | None], unit: str = "", *, allows_log: bool = False) -> Scale:
    """Return the vertical scale of values: logarithmic where they span much."""
    found = [value for value in values if value is not None and value > 0]
    high = max(found, default=1.0)
    if allows_log and found and high / min(found) > LOG_FROM:
        return logarithmic(min(found), high, frame.upward, unit)
    return linear(0.0, high, frame.upward, unit, 4)


def _horizontal(frame: Frame, seconds: float) -> Scale:
    return linear(0.0, max(seconds, 1.0), frame.across, " s", 6, is_rounded=False)


def _marks(slo: Sequence[dict[str, Any]]) -> list[Mark]:
    return [Mark(item["limit"], _sign(item["objective"])) for item in slo if item["name"] not in {"errors", "throughput"}]


def _percentiles(result: dict[str, Any]) -> str:
    latency, service = result["latency_ms"]["curve"], result["service_ms"]["curve"]
    if not latency:
        return _section("Latency by percentile", "<p>There was no answer.</p>")
    below = [point for point in latency if point[0] < 100.0] or latency
    x = percentiles(below[-1][0], WIDE.across)
    kept = [point for point in latency if point[0] < 100.0]
    lines = [
        Series("service time, from when requests were sent", [_by_nines(point) for point in service if point[0] < 100.0], 2),
        Series("latency, from when requests were due", [_by_nines(point) for point in kept], 0),
    ]
    marks = _marks(result["slo"])
    y = _vertical(
        WIDE,
        [value for item in lines for _, value in item.points] + [mark.value for mark in marks if mark.value < 4 * latency[-1][1]],
        " ms",
        allows_log=True,
    )
    labels = [f"{percent:.7g} %" for percent, _ in kept]
    chart = draw(WIDE, lines, x, y, marks=marks, labels=labels, unit=" ms", title="Latency by percentile")
    note = "How long the given share of requests took at most. Each nine to the right is one request in ten of those before."
    return _section("Latency by percentile", chart, note)


def _by_nines(point: Sequence[float]) -> tuple[float, float]:
    return 100.0 / max(100.0 - point[0], 1e-9), point[1]


def _latency(result: dict[str, Any]) -> str:
    seconds = result["seconds"]
    names = (("max", "slowest", 2), ("p99", "p99", 1), ("p50", "p50", 0))
    lines = [Series(text, _over_time(seconds, name), colour) for name, text, colour in names]
    y = _vertical(HALF, [value for name, _, _ in names for value in seconds[name]], " ms", allows_log=True)
    chart = draw(
        HALF,
        lines,
        _horizontal(HALF, len(seconds["t"])),
        y,
        marks=_marks(result["slo"]),
        labels=_moments(seconds),
        unit=" ms",
        title="Latency over time",
    )
    return _section("Latency over time", chart, "Of the requests answered in each second.")


def _throughput(result: dict[str, Any]) -> str:
    seconds = result["seconds"]
    lines = [Series("answered", _over_time(seconds, "answered"), 0, "area")]
    if any(seconds["failed"]):
        lines.append(Series("failed", _over_time(seconds, "failed"), 4, "area"))
    if any(seconds["due"]):
        lines.append(Series("due", _over_time(seconds, "due"), 2, "dashed"))
    y = _vertical(HALF, [value for item in lines for _, value in item.points], "/s")
    chart = draw(
        HALF, lines, _horizontal(HALF, len(seconds["t"])), y, labels=_moments(seconds), unit="/s", title="Throughput over time"
    )
    return _section("Throughput over time", chart, "Requests that ended in each second, and how many were due.")


def _over_time(seconds: dict[str, list[Any]], name: str) -> list[tuple[float, float | None]]:
    return [(second - 0.5, value) for second, value in zip(seconds["t"], seconds[name], strict=True)]


def _moments(seconds: dict[str, list[Any]]) -> list[str]:
    return [f"second {second}" for second in seconds["t"]]


# -- errors, operations, metrics -----------------------------------------------------------------------------------------------


def _errors(result: dict[str, Any]) -> str:
    errors = result["errors"]
    if not errors:
        checked = result["requests"]["checked"]
        return _section(
            "Errors",
            "",
            f"None. {checked:,} answers were compared with those of the embedded engine."
            if checked
            else "None. No answer was checked.",
        )
    most = max(item["count"] for item in errors)
    tolerated = result["settings"]["tolerated"]
    rows = []
    for item in errors:
        name = f"<code>{_text(item['reason'])}</code>" + (
            "<small>tolerated by this scenario</small>" if item["reason"] in tolerated else ""
        )
        said = f'<span class="bar" style="width:{item["count"] / most * 100:.1f}%"></span>' + "".join(
            f"<small>{_text(text)}</small>" for text in item["texts"][:2]
        )
        rows.append((name, said, f"{item['count']:,}", f"{item['share'] * 100:.3g} %"))
    failure = result["failure_ms"]
    note = (
        f"They came after {_ms(failure['p50'])} ms in the median, and {_ms(failure['p99'])} ms in the 99th percentile."
        if failure["count"]
        else ""
    )
    return _section("Errors by reason", _table(("reason", "", "requests", "of all"), rows, 2), note)


def _operations(operations: Sequence[dict[str, Any]]) -> str:
    rows = []
    for item in operations:
        latency = item["latency_ms"]
        name = f"{_text(item['name'])}<small>{_text(item['asks'])} of {_text(item['of'])}</small>"
        size = f"{number_text(item['request_bytes'])}B"
        rows.append(
            (
                name,
                size,
                f"{item['answered']:,}",
                f"{item['failed']:,}",
                *(_ms(latency[place]) for place in ("p50", "p90", "p99", "p99.9", "max")),
                _ms(item["service_ms"]["p50"]),
            )
        )
    heads = ("operation", "request", "answered", "failed", "p50 ms", "p90", "p99", "p99.9", "max", "service p50")
    return _section("Operations", _table(heads, rows))


def _metrics(metrics: dict[str, Any] | None, duration_s: float) -> str:
    if metrics is None:
        return _section(
            "The server's metrics",
            "",
            "Not read. <code>--metrics-url HOST:PORT</code> reads them from the server's Prometheus address.",
        )
    charts = "".join(_metric(chart, metrics["t"], duration_s) for chart in metrics["charts"] if _is_telling(chart))
    silent = sorted({chart["name"] for chart in metrics["charts"] if not _is_telling(chart)})
    note = f"Not all could be read: {_text(metrics['problem'])}. " if metrics["problem"] else ""
    note += f"Always 0, or constant: {_text(', '.join(silent))}." if silent else ""
    return _section("The server's metrics", f'<div class="small">{charts}</div>', note)


def _is_telling(chart: dict[str, Any]) -> bool:
    values = {value for series in chart["series"] for value in series["values"] if value is not None}
    return bool(values - {0.0}) and (len(values) > 1 or len(chart["series"]) > 1)


def _metric(chart: dict[str, Any], times: Sequence[float], duration_s: float) -> str:
    lines = []
    for number, series in enumerate(chart["series"]):
        points = [
            (second, value) for second, value in zip(times, series["values"], strict=True) if 0.0 <= second <= duration_s + 1.0
        ]
        lines.append(Series(series["label"], points, number % 8, "line" if len(chart["series"]) > 1 else "area"))
    y = _vertical(SMALL, [value for item in lines for _, value in item.points])
    unit = chart["unit"] if chart["unit"].startswith("/") else f" {chart['unit']}"
    labels = [f"{second:.0f} s" for second in times if 0.0 <= second <= duration_s + 1.0]
    drawn = draw(SMALL, lines, _horizontal(SMALL, duration_s), y, labels=labels, unit=unit.rstrip(), title=chart["name"])
    name = f"{_text(chart['name'])} <small>{_text(chart['unit'])}</small>"
    return f'<figure><h3>{name}</h3><p class="note">{_text(chart["help"])}</p>{drawn}</figure>'


def _search(search: dict[str, Any] | None, slo: Sequence[dict[str, Any]]) -> str:
    if search is None:
        return ""
    trials = search["trials"]
    colours = {"held": 3, "failed": 4, "unsent": 1}
    lines = [
        Series(
            name, sorted((item["rate"], item["p99_ms"]) for item in trials if item["outcome"] == outcome), colours[outcome], "dots"
        )
        for outcome, name in (("held", "the objectives held"), ("failed", "missed"), ("unsent", "not sent in time"))
        if any(item["outcome"] == outcome for item in trials)
    ]
    chart = ""
    if lines:
        rates = [item["rate"] for item in trials]
        x = logarithmic(min(rates) * 0.9, max(rates) * 1.1, WIDE_LOW.across, "/s", is_rounded=False)
        y = _vertical(WIDE_LOW, [item["p99_ms"] for item in trials], " ms", allows_log=True)
        chart = draw(
            WIDE_LOW,
            lines,
            x,
            y,
            marks=[mark for mark in _marks(slo) if mark.text.startswith("p99 ")],
            unit=" ms",
            title="p99 by rate",
        )
    rows = [
        (
            f"{item['rate']:.1f}/s",
            f'<span class="{item["outcome"]}">{_text(item["outcome"])}</span>',
            _ms(item["p50_ms"]),
            _ms(item["p99_ms"]),
            f"{item['error_share'] * 100:.2f} %",
            f"{item['answered_per_s']:.1f}/s",
        )
        for item in trials
    ]
    end = (
        "The generator could send no more: the server may do more."
        if search["is_limited_by_generator"]
        else "Beyond it the objectives are missed."
    )
    note = (
        f"<b>{search['rate']:.1f} requests a second</b> is the highest rate at which the objectives held. {end} "
        "The rest of this page is a run at that rate."
    )
    table = _table(("rate", "objectives", "p50 ms", "p99 ms", "failed", "answered"), rows)
    body = f"{chart}<details><summary>{len(rows)} trials</summary>{table}</details>"
    return _section("Saturation point", body, note)


# -- the rest ------------------------------------------------------------------------------------------------------------------


def _generator(result: dict[str, Any]) -> str:
    generator, lateness = result["generator"], result["generator"]["lateness_ms"]
    facts = [
        ("Sent after their time", f"p50 {_ms(lateness['p50'])}, p99 {_ms(lateness['p99'])}, at most {_ms(lateness['max'])} ms"),
        ("Busiest process", f"{generator['busiest_core_share'] * 100:.0f} % of a core"),
        ("Cost of a request", f"{generator['cpu_us_per_request']:.0f} µs of processor time"),
        ("Processes and connections", f"{result['settings']['processes']} x {result['settings']['connections']}"),
    ]
    note = "A generator that is late, or takes a whole core, measures itself. A run with more than 1 % sent late is invalid."
    return _section("The generator", _fact_list(facts), note)


def _facts(result: dict[str, Any]) -> str:
    settings, machine = result["settings"], result["machine"]
    facts = [
        ("Server", f"{result['target']}, gradwire {result['server'].get('version', '?')}"),
        ("Load", _load_text(settings)),
        ("Deadline", f"{settings['timeout_s']:g} s"),
        ("Generator's machine", f"{machine['cores']} cores, {machine['system']}"),
        ("Python", machine["python"]),
        ("Ended", result["ended_at"]),
    ]
    source = f"<details><summary>The scenario</summary><pre>{_text(result['scenario']['toml'])}</pre></details>"
    return _section("Settings", _fact_list(facts) + source)


def _fact_list(facts: Sequence[tuple[str, str]]) -> str:
    return f'<dl class="facts">{"".join(_fact_items(facts))}</dl>'


def _fact_items(facts: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, value in facts:
        yield f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
