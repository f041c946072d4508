"""What every benchmark shares: alternating runs, medians, ratios, and how they print."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
for name in THREADS:
    os.environ.setdefault(name, "1")
os.environ.setdefault("GRADWIRE_PLAN_FOLDER_BYTES", "0")  # what is new has never been derived

# A round of a workload takes about this long, and all its rounds together.
ROUND_MS = 20.0
WORKLOAD_MS = 2000.0
MOST_ROUNDS = 15


SETTLING_CALLS, SETTLING_S, WARMING_S, TRYING_CALLS = 150, 20.0, 0.5, 20
SLOW_MS = 200.0  # what takes longer finds its memory anew in any case


@dataclass(frozen=True)
class Row:
    """One workload: gradwire's median beside a peer's, in milliseconds.

    Attributes:
        workload: what is computed.
        peer: what it is compared with.
        gradwire_ms: the median of gradwire.
        peer_ms: the median of the peer.
        ratio: of gradwire to the peer: below 1, gradwire is faster.
        first_ms: gradwire's first call, which traces, derives and plans.
        peer_first_ms: the peer's first call, which may trace and compile.
        at_most: the ratio that is wanted.
    """

    workload: str
    peer: str
    gradwire_ms: float
    peer_ms: float
    ratio: float
    first_ms: float
    peer_first_ms: float
    at_most: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the wanted ratio was reached."""
        if self.at_most is None:
            return ""
        return f"<= {self.at_most:.3g} {'yes' if self.ratio <= self.at_most else 'NO'}"


def time_once(call: Callable[[], object], repeats: int) -> float:
    """Return the milliseconds of processor time that a call takes: those of other processes do not count."""
    began = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - began) / repeats * 1e3


def time_warm(call: Callable[[], object], repeats: int) -> float:
    """Time a call that finds memory and caches as it left them, not as another did."""
    call()
    return time_once(call, repeats)


def first_call(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a first call, which may trace and compile, and its milliseconds."""
    began = time.process_time()
    result = call()
    return result, (time.process_time() - began) * 1e3


def compare(
    workload: str,
    ours: Callable[[], Any],
    peer: str,
    theirs: Callable[[], Any],
    *,
    agree: Callable[[Any, Any], object] | None = None,
    at_most: float | None = None,
) -> Row:
    """Time both in turns, so that noise meets both alike; the first calls, which trace and compile, are reported apart.

    `agree` is given the first results, and raises where they differ.
    """
    (mine, first), (other, peer_first) = first_call(ours), first_call(theirs)
    if agree is not None:
        agree(mine, other)
    del mine, other
    if first < 1000.0:
        settle(ours, most_s=2.0)
    # What took a second at first is not called once more only to see how often it can be.
    once, other_once = [time_warm(call, 1) if spent < 1000.0 else spent for call, spent in ((ours, first), (theirs, peer_first))]
    counts = [max(1, min(2000, int(ROUND_MS / max(spent, 1e-3)))) for spent in (once, other_once)]
    turns = min(MOST_ROUNDS, max(1, int(WORKLOAD_MS / (once * counts[0] + other_once * counts[1]))))
    time_theirs = time_once if other_once > SLOW_MS else time_warm
    pairs = [(time_warm(ours, counts[0]), time_theirs(theirs, counts[1])) for _ in range(turns)]
    ours_ms, theirs_ms = [statistics.median(column) for column in zip(*pairs, strict=True)]
    return Row(workload, peer, ours_ms, theirs_ms, ours_ms / theirs_ms, first, peer_first, at_most)


def settle(call: Callable[[], object], most_s: float = SETTLING_S) -> None:
    """Call gradwire in process until nothing is compiled any more: long programs are, chunk by chunk, as they are called.

    What is compiled in the background is so once it ran for long; it is then called some times more, both ways in turns.
    """
    from gradwire._embedded import EMBEDDED

    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < (most_s if count < SETTLING_CALLS else WARMING_S):
        call()
        count += 1
    tier = EMBEDDED._cache._tier  # what no caller needs
    while tier is not None and not tier.is_idle:
        time.sleep(0.1)
    for _ in range(TRYING_CALLS):
        call()


def options(title: str, **folders: str) -> argparse.Namespace:
    """Read the command line; `folders` names further options that take a path, with their help."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--only", default="", help="run only the groups of workloads whose name contains this")
    for name, text in folders.items():
        parser.add_argument(f"--{name}", type=Path, help=text)
    return parser.parse_args()


def show_rows(title: str, rows: Sequence[Row], note: str = "") -> None:
    """Print a table."""
    threads = ", ".join(f"{name}={os.environ[name]}" for name in THREADS)
    print(f"{title}  (medians of processor time; {threads}; Python {platform.python_version()}, {os.cpu_count()} cores{note})")
    print(
        f"{'workload':58} {'gradwire ms':>12} {'peer ms':>12} {'ratio':>9} {'wanted':>14} {'first ms':>9} {'peer first':>10}  peer"
    )
    for row in rows:
        figures = f"{row.gradwire_ms:12.4f} {row.peer_ms:12.4f} {row.ratio:9.3g} {row.verdict:>14}"
        print(f"{row.workload:58} {figures} {row.first_ms:9.1f} {row.peer_first_ms:10.1f}  {row.peer}")


def report(title: str, rows: list[Row]) -> None:
    """Print a table, and write JSON where `--json FILE` asks for it."""
    chosen = options(title)
    show_rows(title, rows)
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
