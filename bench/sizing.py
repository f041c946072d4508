"""What a replica needs: requests a second that a core answers, and the memory of its processes.

A server with two workers is sent requests of one kind after another in a closed loop, by `gradwire load`. What its processes
took of a processor meanwhile is divided by the requests that were answered: so the figures hold on a machine that does other
work too, though its caches are shared. Memory is the proportional set size: pages that processes share are counted once.

    .venv/bin/python bench/sizing.py                docs/operations.md has its table
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import _servers as servers

HEAD = """title = "Sizing"
warmup_s = 2
check = 0
slo = "errors=0"
arrivals = {{ kind = "closed", in_flight = 8 }}
mode = "{mode}"

[[mix]]
name = "requests"
"""
CASES = {
    "Rosenbrock, value and gradient, n = 10": 'program = "rosenbrock"\nsizes = { n = 10 }\nwant = ["value", "grad"]\n',
    "500 option prices and their gradient": 'program = "black_scholes"\nsizes = { quotes = 500 }\nwant = ["value", "grad"]\n',
    "logistic regression 200 x 10, value and gradient": (
        'program = "logistic"\nsizes = { rows = 200, columns = 10 }\nwant = ["value", "grad"]\n'
    ),
    "Rosenbrock, n = 100,000": 'program = "rosenbrock"\nsizes = { n = 100000 }\nwant = ["value", "grad"]\n',
}
MODES = {"session": "stream", "calls": "unary"}
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
MEGABYTE = 1e6


@dataclass(frozen=True)
class Row:
    """What a request of one kind costs a server, in milliseconds of a processor, and how many a core answers in a second."""

    case: str
    way: str
    front_ms: float
    workers_ms: float

    @property
    def per_core(self) -> float:
        return 1000 / (self.front_ms + self.workers_ms)


def processor_ms(pid: int) -> float:
    """Return what a process has taken of a processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_MS


def measure(server: servers.Running, case: str, way: str, seconds: float, folder: Path) -> Row:
    """Send requests of one kind, and return what they cost; those of the warm-up are divided by as well."""
    scenario, result = folder / "sizing.toml", folder / "result.json"
    scenario.write_text(HEAD.format(mode=MODES[way]) + CASES[case])
    before = {pid: processor_ms(pid) for pid in server.pids}
    command = [sys.executable, "-m", "gradwire", "load", "run", str(scenario), "--target", server.address, "--quiet"]
    subprocess.run([*command, "--duration", str(seconds), "--json", str(result)], check=True, stdout=subprocess.DEVNULL)
    taken = {pid: processor_ms(pid) - before[pid] for pid in before}
    count = json.loads(result.read_text())["requests"]["ended"]
    workers_ms = sum(taken.get(pid, 0.0) for pid in server.worker_pids)
    return Row(case, way, (sum(taken.values()) - workers_ms) / count, workers_ms / count)


def median(rows: list[Row]) -> Row:
    """Return the row in the middle."""
    return sorted(rows, key=lambda row: row.per_core)[len(rows) // 2]


def memory(server: servers.Running) -> tuple[float, float]:
    """Return what the front end and a worker hold, in megabytes."""
    workers = [servers.proportional_bytes(pid) for pid in server.worker_pids]
    front = server.proportional_bytes - sum(workers)
    return front / MEGABYTE, statistics.mean(workers) / MEGABYTE


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement (default: 8)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is told (default: 3)")
    options = parser.parse_args()
    arguments = ("--workers", "2", "--spare-workers", "0")
    with tempfile.TemporaryDirectory() as folder, servers.gradwire(*arguments) as server:
        print("| MB, proportional | front end | a worker |\n|---|---|---|")
        print("| at rest | {:.0f} | {:.0f} |".format(*memory(server)))
        rows = [
            median([measure(server, case, way, options.seconds, Path(folder)) for _ in range(options.rounds)])
            for case in CASES
            for way in MODES
        ]
        print("| after all of what follows | {:.0f} | {:.0f} |\n".format(*memory(server)))
    print("| request | by | front end, ms | workers, ms | requests/s a core |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.case} | {row.way} | {row.front_ms:.2f} | {row.workers_ms:.2f} | {row.per_core:.0f} |")


if __name__ == "__main__":
    main()
