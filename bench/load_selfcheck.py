"""The load harness measured by itself: does it report the latencies that a server was made to have?

An echo waits before every other answer, as long as a list of random numbers says, and notes how long it really took. The harness
sends to it on a schedule. What it reports of these requests should be distributed as the sum of what the echo noted and of what the
others took, which the echo answers at once (in the same run, for machines are not equally fast all the time). Then the echo stands
still once, for 200 ms: all requests that were due meanwhile have waited, and must be seen to have.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np

from gradwire import ClientConfig
from gradwire_load.arrivals import Arrivals, Step
from gradwire_load.encoding import Encoded
from gradwire_load.fleet import Fleet
from gradwire_load.generator import COLUMNS, Share
from gradwire_load.tally import LATE_SHARE, Tally
from gradwire_load.transport import Route

PERCENTS = (50.0, 99.0, 99.9)
WARMUP_S = 1.0
STALL_S = 0.2
SUMS = 1_000_000  # of pairs
WAITING, PROMPT = b"w" * 80, b"p" * 80


@dataclass(frozen=True)
class Row:
    """A percentile: what the echo noted, that and the base, what was reported, and how far that is."""

    percent: float
    noted_ms: float
    wanted_ms: float
    reported_ms: float

    @property
    def away_ms(self) -> float:
        return abs(self.reported_ms - self.wanted_ms)

    @property
    def holds(self) -> bool:
        """Whether it is within 2 % or 0.2 ms."""
        return self.away_ms <= max(0.2, 0.02 * self.wanted_ms)


async def serve(median_ms: float, spread: float, stall_after: int) -> None:
    """Serve echoes until stdin ends; then print how long each took, in seconds."""
    waits = (median_ms / 1e3 * np.random.default_rng(0).lognormal(0.0, spread, 100_000)).tolist()
    noted: list[float] = []
    numbers = itertools.count()

    async def evaluate(request: bytes, _context: object) -> bytes:
        began = time.perf_counter()
        number = next(numbers)
        if number == stall_after:
            time.sleep(STALL_S)  # noqa: ASYNC251  # all of it stands still
        if request == WAITING:
            await asyncio.sleep(waits[number % len(waits)])
            noted.append(time.perf_counter() - began)
        return request

    server = grpc.aio.server()
    handlers = {"Evaluate": grpc.unary_unary_rpc_method_handler(evaluate)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("gradwire.v1.DifferentiationService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)
    print(json.dumps(noted), flush=True)


@contextlib.contextmanager
def echo(median_ms: float, spread: float, stall_after: int = -1) -> Iterator[tuple[str, list[float]]]:
    """Run an echo; yield its address, and a list that holds what it noted once the block is left."""
    command = [sys.executable, __file__, "--serve", str(median_ms), str(spread), str(stall_after)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        noted: list[float] = []
        yield process.stdout.readline().strip(), noted
        process.stdin.close()
        noted += json.loads(process.stdout.readline())


def load(address: str, rate: float, seconds: float, kind: str = "poisson") -> tuple[Tally, np.ndarray]:
    """Send on a schedule; return the tally, and the rows of all requests."""
    operations = tuple((Encoded(data, None, data, ()),) for data in (WAITING, PROMPT))
    share = Share(0, 1, operations, (1.0, 1.0), timeout_s=10.0, check=0.0, seed=1, in_flight_max=2000)
    batches = []
    begin = [0.0]
    with Fleet(Route(address, ClientConfig(), "unary"), [share]) as fleet:
        arrivals = Arrivals(kind, (Step(WARMUP_S + seconds, rate),))
        fleet.run(arrivals, lambda at: begin.__setitem__(0, at), lambda _, batch: batches.append(batch), lambda: True)
    tally = Tally(2, begin[0] + WARMUP_S, begin[0] + WARMUP_S + seconds)
    for batch in batches:
        tally.add(batch)
    return tally, np.concatenate([np.frombuffer(batch.rows).reshape(-1, COLUMNS) for batch in batches])


def check_percentiles(rate: float, seconds: float, median_ms: float, spread: float) -> tuple[list[Row], float]:
    """Return the rows of a distribution, and the share of requests that was sent late."""
    with echo(median_ms, spread) as (address, noted):
        tally, rows = load(address, rate, seconds)
    injected, prompt = np.array(noted), rows[rows[:, 3] == 1]
    waiting, draw = tally.operations[0].latency, np.random.default_rng(0)
    sums = draw.choice(injected, SUMS) + draw.choice(prompt[:, 2] - prompt[:, 0], SUMS)
    found = [
        Row(percent, *(1e3 * np.percentile(times, percent) for times in (injected, sums)), waiting.percentile_s(percent) * 1e3)
        for percent in PERCENTS
    ]
    return found, tally.late_share


def check_stall(rate: float, seconds: float) -> tuple[int, float, float]:
    """Return how many requests are reported to have waited more than half of a stall, how many should, and the longest in ms."""
    with echo(0.0, 0.0, int(rate * (WARMUP_S + seconds / 2))) as (address, _):
        tally, rows = load(address, rate, seconds, "uniform")
    waited = int(np.count_nonzero(rows[:, 2] - rows[:, 0] > STALL_S / 2))
    return waited, rate * STALL_S / 2, tally.latency.max_s * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.serve:
        median_ms, spread, stall_after = map(float, options.serve)
        asyncio.run(serve(median_ms, spread, int(stall_after)))
        return
    rows, late_share = check_percentiles(options.rate, options.seconds, 5.0, 0.6)
    note = "" if late_share <= LATE_SHARE else ": this machine is too busy for the figures to mean anything"
    print(f"lognormal delays at {options.rate:g}/s; {late_share:.2%} sent late{note}")
    print(f"{'percentile':>10} {'noted ms':>10} {'wanted ms':>10} {'reported ms':>12} {'away ms':>9}")
    for row in rows:
        verdict = "within 2 % or 0.2 ms" if row.holds else "TOO FAR"
        print(f"{row.percent:10g} {row.noted_ms:10.3f} {row.wanted_ms:10.3f} {row.reported_ms:12.3f} {row.away_ms:9.3f}  {verdict}")
    waited, expected, longest_ms = check_stall(options.rate, min(options.seconds, 10.0))
    print(f"a stall of {STALL_S * 1e3:.0f} ms: {waited} requests waited more than half of it, {expected:.0f} at least had to")
    print(f"the longest waited {longest_ms:.1f} ms")
    if options.json:
        found = {"rows": [asdict(row) for row in rows], "late_share": late_share, "stall": [waited, expected, longest_ms]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
