"""What only time shows: too much load, workers that die, hours of work.

    python bench/endurance.py overload --seconds 60     # ten times what the server can do
    python bench/endurance.py chaos --seconds 600       # mixed load while workers are killed
    python bench/endurance.py soak --seconds 1800       # half of what the server can do; does memory grow? 900 s more to get warm
    python bench/endurance.py busy --seconds 60         # health, capabilities and metrics while everything else waits

Without --seconds each takes a short time, enough to see that it works.
"""

from __future__ import annotations

from _measure import THREADS  # isort: skip  # noqa: F401  # sets thread counts before NumPy is imported

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
from _busy import busy, heavy_request
from _generator import summary
from _mixed import REFUSED, WAYS, Caller, questions
from _servers import ANY_SIZE, SERVICE, Running, gradwire, stub
from _verdicts import Progress, Report

EVALUATE = SERVICE + "Evaluate"
DEADLINE_S = 60.0

# -- overload ----------------------------------------------------------------------------------------------------------------

TIMES = 10
MEASURED_S = 4.0
PROMPT_MS = 100.0
RECOVERY_S = 2.0
LATE_S = 0.05


def overload(server: Running, chosen: argparse.Namespace, report: Report) -> None:
    """Offer ten times what the server can do, at random times, and see who is served and how soon it is over."""
    asyncio.run(_overload(server, chosen, report))


async def _overload(server: Running, chosen: argparse.Namespace, report: Report) -> None:
    request = await asyncio.to_thread(heavy_request, server.address)  # few bytes: the generator keeps up
    async with grpc.aio.insecure_channel(server.address, options=ANY_SIZE) as channel:
        call = channel.unary_unary(EVALUATE)
        capacity = await _capacity(call, request, chosen.workers)
        unloaded = await _offer(call, request, 0.3 * capacity, MEASURED_S)
        alone = summary("unloaded", unloaded.admitted, 0.0)
        print(f"capacity {capacity:.0f} requests/s; unloaded p50 {alone.p50_ms:.1f} ms, p99 {alone.p99_ms:.1f} ms")
        memory = asyncio.create_task(_sample(server, chosen.seconds))
        found = await _offer(call, request, TIMES * capacity, chosen.seconds, Progress())
        recovered_s = await _recover(call, request, alone.p99_ms)
        resident = await memory
    admitted, refused = summary("admitted", found.admitted, 0.0), summary("refused", found.refused or [0.0], 0.0)
    first, last = resident[len(resident) // 4], resident[-1]
    report.figures |= {
        "capacity": capacity,
        "unloaded": alone,
        "admitted": admitted,
        "refused": refused,
        "admitted_per_s": len(found.admitted) / chosen.seconds,
        "offered_per_s": found.count / chosen.seconds,
        "late": found.late_count / max(1, found.count),
        "others": dict(found.others),
        "resident_bytes": resident,
    }
    print(
        f"offered {found.count / chosen.seconds:.0f}/s ({100 * found.late_count / max(1, found.count):.1f} % over 50 ms late), "
        f"admitted {len(found.admitted) / chosen.seconds:.0f}/s, p50 {admitted.p50_ms:.1f} ms; refused p50 {refused.p50_ms:.1f} ms"
    )
    report.at_most("admitted requests' p99 by the unloaded one", admitted.p99_ms / alone.p99_ms, 3.0)
    report.at_most("refusals' p99", refused.p99_ms, PROMPT_MS, "ms")
    report.at_most(f"requests that were neither answered nor refused as overload {dict(found.others)}", found.others.total(), 0)
    report.at_least("rate of the admitted by the capacity", len(found.admitted) / chosen.seconds / capacity, 0.8)
    report.at_most("resident memory at the end by that after a quarter", last / first, 1.05)
    report.at_most("seconds until requests are as quick as before", recovered_s, RECOVERY_S, "s")


async def _capacity(call, request: bytes, workers: int) -> float:
    """Return the requests a second that are answered with two in flight for each worker."""
    count, end_s = 0, time.monotonic() + MEASURED_S

    async def ask() -> None:
        nonlocal count
        while time.monotonic() < end_s:
            await call(request, timeout=DEADLINE_S)
            count += 1

    await asyncio.gather(*[ask() for _ in range(2 * workers)])
    return count / MEASURED_S


class Offered:
    """What came of requests sent on a schedule: latencies in milliseconds, from the time at which each was to be sent."""

    def __init__(self) -> None:
        self.count = self.late_count = 0
        self.admitted: list[float] = []
        self.refused: list[float] = []
        self.others: Counter[str] = Counter()


async def _offer(call, request: bytes, rate: float, seconds: float, progress: Progress | None = None) -> Offered:
    """Send requests at random times, at a rate, whatever becomes of them."""
    rng, found, running = random.Random(0), Offered(), set()

    async def send(due_s: float) -> None:
        sent_s = time.perf_counter()
        found.late_count += sent_s - due_s > LATE_S
        try:
            await call(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                found.refused.append((time.perf_counter() - sent_s) * 1e3)
            else:
                found.others[f"{error.code().name}: {error.details()}"] += 1
        else:
            found.admitted.append((time.perf_counter() - sent_s) * 1e3)

    due_s = began_s = time.perf_counter()
    while due_s < began_s + seconds:
        due_s += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        found.count += 1
        task = asyncio.create_task(send(due_s))
        running.add(task)
        task.add_done_callback(running.discard)
        if progress:
            progress.tell(f"{found.count} sent, {len(found.admitted)} answered, {len(found.refused)} refused")
    await asyncio.gather(*running)
    return found


async def _recover(call, request: bytes, as_before_ms: float) -> float:
    """Return the seconds until three requests in a row are answered as quickly as before."""
    began_s, row = time.perf_counter(), 0
    while row < 3:
        sent_s = time.perf_counter()
        try:
            await call(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError:
            row = 0
        else:
            row = row + 1 if (time.perf_counter() - sent_s) * 1e3 <= as_before_ms else 0
        if time.perf_counter() - began_s > DEADLINE_S:
            return float("inf")
    return time.perf_counter() - began_s


async def _sample(server: Running, seconds: float) -> list[int]:
    """Return the resident memory of a server, sampled for so long."""
    samples = []
    for _ in range(max(8, int(seconds))):
        samples.append(await asyncio.to_thread(lambda: server.resident_bytes))
        await asyncio.sleep(seconds / max(8, int(seconds)))
    return samples


# -- chaos -------------------------------------------------------------------------------------------------------------------


def chaos(server: Running, chosen: argparse.Namespace, report: Report) -> None:
    """Ask in every way while workers are killed, and now and then suspended."""
    stopping = threading.Event()
    callers = [Caller(server.address, way, stopping) for way in WAYS]
    for caller in callers:
        caller.start()
    try:
        kills = _disturb(server, chosen, callers)
    finally:
        stopping.set()
        for caller in callers:
            caller.join()
    outcomes = sum((caller.outcomes for caller in callers), Counter())
    with stub(server.address) as found:
        right_after = sum(question.is_right(found.Evaluate(question.request, timeout=DEADLINE_S)) for question in questions())
    by_way = {caller._ask.__name__: dict(caller.outcomes) for caller in callers}
    report.figures |= {"kills": kills, "outcomes": by_way}
    print(
        f"{kills} workers were killed or suspended; right answers: "
        + str({way: item.get("right", 0) for way, item in by_way.items()})
    )
    for outcome, count in outcomes.items():
        if outcome not in ("right", "wrong"):
            print(f"  {count} x {outcome}")
    failed = outcomes.total() - outcomes["right"] - outcomes["wrong"] - outcomes[REFUSED]
    report.at_least("workers killed or suspended", kills, int(chosen.seconds / chosen.interval / 2))
    report.at_most("failed calls", failed, 0)
    report.at_most("wrong answers", outcomes["wrong"], 0)
    report.at_most("ways of asking that never succeeded", sum(not item.get("right") for item in by_way.values()), 0)
    report.at_most("wrong answers afterwards", len(questions()) - right_after, 0)


def _disturb(server: Running, chosen: argparse.Namespace, callers: list[Caller]) -> int:
    """Kill a worker every so often, and suspend some instead; return how many."""
    rng, progress, pause, count = random.Random(0), Progress(), threading.Event(), 0
    end_s = time.monotonic() + chosen.seconds
    for turn in itertools.count(1):
        pause.wait(chosen.interval)
        if time.monotonic() >= end_s:
            return count
        pids = server.worker_pids
        with contextlib.suppress(ProcessLookupError):  # it may end meanwhile
            if pids:
                os.kill(
                    rng.choice(pids),
                    signal.SIGSTOP if chosen.suspend_every and turn % chosen.suspend_every == 0 else signal.SIGKILL,
                )
                count += 1
        total = sum((caller.outcomes for caller in callers), Counter())
        progress.tell(f"{count} kills, {total['right']} right, {total.total() - total['right']} not")
    raise AssertionError


# -- soak --------------------------------------------------------------------------------------------------------------------

WARM_UP_S = 900.0
BINS = 24


def soak(server: Running, chosen: argparse.Namespace, report: Report) -> None:
    """Ask at half of what the server can do, and fit a line to its memory once it is warm.

    It asks for a quarter of an hour before, or for half as long if that is less: the C library keeps freed pieces of the heap for
    each thread and size, from wherever they were, and what lies between them is less and less used for what is larger. At half load
    that takes a quarter of an hour to be over.
    """
    warm_up_s = min(WARM_UP_S, 0.5 * chosen.seconds)
    stopping = threading.Event()
    interval_s = _pace(server)
    callers = [Caller(server.address, _paced(way, interval_s), stopping) for way in WAYS]
    for caller in callers:
        caller.start()
    progress, samples, pause = Progress(), [], threading.Event()
    began_s = time.monotonic()
    try:
        while (now_s := time.monotonic() - began_s - warm_up_s) < chosen.seconds:
            samples.append((now_s, server.resident_bytes, server.proportional_bytes))
            progress.tell(f"{samples[-1][1] / 2**20:.1f} MiB resident, {sum(caller.outcomes['right'] for caller in callers)} right")
            pause.wait(min(1.0, chosen.seconds / 100))
    finally:
        stopping.set()
        for caller in callers:
            caller.join()
    outcomes = sum((caller.outcomes for caller in callers), Counter())
    times, resident, _ = np.array(samples).T
    is_warm = times >= 0.0
    slope, error = trend(times[is_warm], resident[is_warm])
    report.figures |= {"slope_bytes_per_s": slope, "standard_error": error, "samples": samples, "outcomes": dict(outcomes)}
    print(
        f"resident memory after {warm_up_s:.0f} s: {resident[is_warm][0] / 2**20:.1f} MiB, {chosen.seconds:.0f} s later: "
        f"{resident[-1] / 2**20:.1f} MiB; slope {slope / 1024:+.2f} KiB/s, standard error {error / 1024:.2f} KiB/s"
    )
    report.at_most("failed calls and wrong answers", outcomes.total() - outcomes["right"] - outcomes[REFUSED], 0)
    report.at_most("slope of resident memory, in standard errors", slope / error if error else 0.0, 2.0)


def trend(times: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return the slope of a line through values, and its standard error, from the means of bins, which are nearly independent."""
    bins = [np.mean(part, axis=1) for part in np.array_split(np.stack([times, values]), BINS, axis=1) if part.size]
    x, y = np.array(bins).T
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    return slope, float(np.sqrt(rest @ rest / (len(x) - 2) / (x @ x)))


def _pace(server: Running) -> float:
    """Return the seconds between two questions of each way of asking at which the server is half busy."""
    rng, spent = random.Random(0), []
    for way in WAYS:
        asking = way(server.address, rng)
        next(asking)
        began_s = time.perf_counter()
        for _ in range(20):
            next(asking)
        spent.append((time.perf_counter() - began_s) / 20)
        asking.close()
    return sum(spent)  # all ways together keep one worker of two busy


def _paced(way: Callable, interval_s: float) -> Callable:
    def ask(address: str, rng: random.Random):
        for is_right in way(address, rng):
            yield is_right
            time.sleep(rng.expovariate(1.0 / interval_s))

    ask.__name__ = way.__name__
    return ask


PARTS = {"overload": overload, "chaos": chaos, "soak": soak, "busy": busy}


def main() -> int:
    parser = argparse.ArgumentParser(description="too much load, workers that die, hours of work")
    parser.add_argument("part", nargs="?", choices=PARTS, help="what to run (default: all, one after the other)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=15.0,
        help="how long each measures (default: 15); a soak gets warm before",
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the server (default: 2)")
    parser.add_argument("--interval", type=float, default=2.0, help="chaos: seconds between two kills (default: 2)")
    parser.add_argument("--suspend-every", type=int, default=3, help="chaos: suspend instead of kill every so many times; 0: never")
    parser.add_argument("--flags", default="", help="further flags of the server, separated by spaces")
    parser.add_argument("--show-errors", action="store_true", help="show what the server logged")
    parser.add_argument("--json", type=Path, help="also write the figures to this file, or to its name with the part before it")
    chosen = parser.parse_args()
    code = 0
    for part in [chosen.part] if chosen.part else PARTS:
        report = Report(part)
        with gradwire("--workers", str(chosen.workers), *chosen.flags.split(), show_errors=chosen.show_errors) as server:
            PARTS[part](server, chosen, report)
        path = chosen.json and (chosen.json if chosen.part else chosen.json.with_name(f"{part}-{chosen.json.name}"))
        code |= report.finish(path)
    return code


if __name__ == "__main__":
    sys.exit(main())
