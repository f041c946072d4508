"""The service end to end: beside a bare grpc.aio service that computes the same by hand-written NumPy, and beside its peers.

    python bench/serving.py                       # everything; some minutes
    python bench/serving.py --only small          # one part: small, peers, workers, large or calibration

All servers run as processes on loopback, with the threads and the allocator settings of gradwire's workers, metrics on. What is
compared is measured in turns, and medians of the rounds are reported. Requests are made beforehand, and their answers checked once;
the load comes from h2load, where it is installed and the calls are unary, else from two processes. Peers are installed by pip into
`--peers-dir`.
"""

from __future__ import annotations

from _measure import THREADS  # isort: skip  # sets thread counts before NumPy is imported

import argparse
import os
import platform
import sys
from pathlib import Path

from _generator import Generators, has_h2load
from _serving_large import LARGE_BYTES, calibration, large, two_workers
from _serving_small import beside_bare, beside_peers
from _verdicts import Report

PARTS = ("small", "peers", "workers", "large", "calibration")
CACHE = Path.home() / ".cache" / "gradwire-bench"


def main() -> int:
    parser = argparse.ArgumentParser(description="the service end to end, beside a bare service and its peers")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="the parts to run (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each load runs, in turns (default: 3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each load runs, in each round (default: 1)")
    parser.add_argument("--bytes", type=int, default=LARGE_BYTES, help=f"of the large array (default: {LARGE_BYTES})")
    parser.add_argument("--peers-dir", type=Path, default=CACHE, help=f"where peers are installed (default: {CACHE})")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args()
    report = Report("serving")
    threads = ", ".join(f"{name}={os.environ[name]}" for name in THREADS)
    print(f"serving  (loopback, {threads}; Python {platform.python_version()}, {os.cpu_count()} cores; {chosen.rounds} rounds)")
    if not has_h2load():
        print("h2load is not installed (Debian: nghttp2-client): unary calls come from two processes", file=sys.stderr)
    with Generators() as generators:
        if "small" in chosen.only:
            beside_bare(report, generators, seconds=chosen.seconds, rounds=chosen.rounds)
        if "peers" in chosen.only:
            beside_peers(report, generators, chosen.peers_dir, seconds=chosen.seconds, rounds=chosen.rounds)
        if "workers" in chosen.only:
            two_workers(report, generators, seconds=3 * chosen.seconds, rounds=chosen.rounds)
    if "large" in chosen.only:
        large(report, size=chosen.bytes, rounds=2 * chosen.rounds + 1)
    if "calibration" in chosen.only:
        calibration(report)
    return report.finish(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
