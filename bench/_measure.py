"""What every benchmark shares: alternating runs, medians, ratios, and how they print."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
for name in THREADS:
    os.environ.setdefault(name, "1")


@dataclass(frozen=True)
class Row:
    """One workload: gradwire's median beside a peer's, in milliseconds, and their ratio (below 1: gradwire is faster)."""

    workload: str
    peer: str
    gradwire_ms: float
    peer_ms: float
    ratio: float
    first_ms: float


def time_once(call: Callable[[], object], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats * 1e3


def compare(
    workload: str,
    ours: Callable[[], object],
    peer: str,
    theirs: Callable[[], object],
    *,
    agree: Callable[[], object],
    rounds: int = 15,
) -> Row:
    """Time both in turns, so that noise meets both alike; the first call, which traces and plans, is reported apart.

    `agree` raises where both differ; it runs behind the first call, so that the first call is one.
    """
    first = time_once(ours, 1)
    agree()
    theirs()
    repeats = max(1, min(2000, int(20 / max(time_once(ours, 3), time_once(theirs, 3), 1e-3))))
    pairs = [(time_once(ours, repeats), time_once(theirs, repeats)) for _ in range(rounds)]
    mine, other = [statistics.median(column) for column in zip(*pairs, strict=True)]
    return Row(workload, peer, mine, other, mine / other, first)


def report(title: str, rows: list[Row]) -> None:
    """Print a table, and write JSON where `--json FILE` asks for it."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args()
    threads = ", ".join(f"{name}={os.environ[name]}" for name in THREADS)
    print(f"{title}  (medians; {threads}; Python {platform.python_version()}, {os.cpu_count()} cores)")
    print(f"{'workload':44} {'gradwire ms':>12} {'peer ms':>12} {'ratio':>8} {'first ms':>9}  peer")
    for row in rows:
        print(f"{row.workload:44} {row.gradwire_ms:12.4f} {row.peer_ms:12.4f} {row.ratio:8.3g} {row.first_ms:9.2f}  {row.peer}")
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
