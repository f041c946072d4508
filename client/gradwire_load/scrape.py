"""The server's own metrics during a run, read from its Prometheus address once a second by a thread."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from prometheus_client.parser import text_string_to_metric_families

from gradwire_core.errors import ArgumentError

EVERY_S = 1.0
TIMEOUT_S = 2.0
PREFIXES = ("gradwire_", "process_cpu_seconds", "process_resident_memory")
MOST_SERIES = 8  # of a family, the largest

Samples = dict[tuple[str, str, str], dict[str, float]]
"""For each family, by name, type and help: its values, by labels."""


class Reading(NamedTuple):
    """What one scrape gave.

    Attributes:
        second: when, in seconds of the monotonic clock.
        samples: the values.
    """

    second: float
    samples: Samples


class Scraper:
    """Reads metrics for the length of a `with` block.

    Args:
        urls: the addresses, such as `http://127.0.0.1:9464/metrics` or `127.0.0.1:9464`; the values of several are added up.
        fetch: returns the text of an address.
    """

    def __init__(self, urls: Sequence[str], fetch: Callable[[str], str] | None = None) -> None:
        self._urls = [normal_url(url) for url in urls]
        self._fetch = fetch or _fetch
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True, name="gradwire-load-metrics")
        self.readings: list[Reading] = []
        self.problem = ""

    def __enter__(self) -> Self:
        """Begin."""
        if self._urls:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None) -> None:
        """End."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT_S * len(self._urls) + EVERY_S)

    def read(self) -> None:
        """Read all addresses once."""
        samples: Samples = {}
        try:
            for url in self._urls:
                for family in text_string_to_metric_families(self._fetch(url)):
                    if family.name.startswith(PREFIXES) and not family.name.endswith("_created"):
                        values = samples.setdefault((family.name, family.type, family.documentation), {})
                        for name, number in _values(family):
                            values[name] = values.get(name, 0.0) + number
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.problem = f"{', '.join(self._urls)}: {error}"
        else:
            self.readings.append(Reading(time.monotonic(), samples))

    def _repeat(self) -> None:
        while True:
            self.read()
            if self._stopping.wait(EVERY_S):
                return

    def summary(self, began_s: float, ended_s: float) -> dict[str, Any]:
        """Return the series between two times: gauges as they are, counters a second, histograms as calls a second and mean."""
        readings = [item for item in self.readings if began_s - EVERY_S <= item.second <= ended_s + EVERY_S]
        families = {key for item in readings for key in item.samples}
        charts = [chart for key in sorted(families) for chart in _charts(key, readings)]
        return {"problem": self.problem, "t": [item.second - began_s for item in readings], "charts": charts}


def normal_url(text: str) -> str:
    """Return the whole address of what may be `HOST:PORT`.

    Raises:
        ArgumentError: it is no address of HTTP.
    """
    url = text if "://" in text else f"http://{text}"
    parts = urllib.parse.urlsplit(url)
    with contextlib.suppress(ValueError):
        if parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0):
            return url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/metrics"
    raise ArgumentError(f"--metrics-url: needed http://HOST:PORT/metrics or HOST:PORT, got {text!r}; correct it", given=text)


def _fetch(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path, headers={"Accept": "text/plain"})
        response = connection.getresponse()
        text = response.read().decode("utf-8")
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise http.client.HTTPException(f"{response.status} {response.reason}")
    return text


def _values(family: Any) -> Iterator[tuple[str, float]]:
    """Yield the values of a family, by part and labels; buckets and creation times are left out."""
    for sample in family.samples:
        part = sample.name.removeprefix(family.name)
        if part not in {"_bucket", "_created", "_gsum", "_gcount"}:
            labels = ", ".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            yield f"{part}|{labels}", sample.value


def _charts(key: tuple[str, str, str], readings: Sequence[Reading]) -> Iterator[dict[str, Any]]:
    """Yield the charts of a family."""
    name, kind, text = key
    columns: dict[str, list[float | None]] = {}
    for number, item in enumerate(readings):
        for label, value in item.samples.get(key, {}).items():
            columns.setdefault(label, [None] * len(readings))[number] = value
    times = [item.second for item in readings]
    if kind in {"counter", "histogram", "summary"}:
        counted = {
            label.partition("|")[2]: _rates(times, values) for label, values in columns.items() if label[:6] in {"_total", "_count"}
        }
        yield _chart(name, text, "/s", counted)
        sums = {label.partition("|")[2]: _rates(times, values) for label, values in columns.items() if label.startswith("_sum")}
        if sums:
            factor, unit = (1e3, "ms") if name.endswith("_seconds") else (1.0, "B" if name.endswith("_bytes") else "")
            means = {
                label: [_ratio(*pair, factor) for pair in zip(values, counted[label], strict=True)]
                for label, values in sums.items()
                if label in counted
            }
            yield _chart(f"{name} (mean)", text, unit, means)
    else:
        yield _chart(name, text, "", {label.partition("|")[2]: values for label, values in columns.items()})


def _chart(name: str, text: str, unit: str, series: dict[str, list[float | None]]) -> dict[str, Any]:
    telling = {label: values for label, values in series.items() if any(values)} or series
    largest = sorted(telling.items(), key=lambda item: -max((value or 0.0 for value in item[1]), default=0.0))[:MOST_SERIES]
    return {"name": name, "help": text, "unit": unit, "series": [{"label": label, "values": values} for label, values in largest]}


def _rates(times: Sequence[float], values: Sequence[float | None]) -> list[float | None]:
    """Return how much a count grew a second, from the reading before; nothing where it was set back."""
    found: list[float | None] = [None] * len(values)
    for number in range(1, len(values)):
        before, now = values[number - 1] or 0.0, values[number]
        if now is not None and now >= before:
            found[number] = (now - before) / max(times[number] - times[number - 1], 1e-9)
    return found


def _ratio(amount: float | None, count: float | None, factor: float) -> float | None:
    return factor * amount / count if amount is not None and count else None
