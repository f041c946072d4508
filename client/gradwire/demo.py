"""`python -m gradwire.demo`: start a server, connect to it, and tour the calculus that gradwire exists for.

Every result comes from the server and is printed beside its closed form, computed here with NumPy alone.
"""

from __future__ import annotations

import contextlib
import math
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire._client import Client, connect
from gradwire._tour import TOLERANCE, TOUR, Check
from gradwire_core.types import Array

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
WIDTH_LIMIT = 6


@dataclass(frozen=True, slots=True)
class Server:
    """A real server, as a process of its own on a free port of this machine.

    Attributes:
        address: where it listens.
        process: the process.
    """

    address: str
    process: subprocess.Popen[str]

    def stop(self) -> int:
        """Tell the server to stop and return its exit code; 0 is a clean stop."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def start_server(*arguments: str) -> Iterator[Server]:
    """Start a server with two workers, and end it at the end of the block if it has not been stopped.

    Args:
        arguments: further arguments of `gradwire serve`.

    Raises:
        RuntimeError: the server did not start; the text is what it had to say.
    """
    command = [sys.executable, "-m", "gradwire_server", "--listen", "127.0.0.1:0", "--workers", "2", *arguments]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        timer = threading.Timer(START_TIMEOUT_S, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            timer.cancel()
            if not line.startswith("listening on "):
                process.kill()
                log.seek(0)
                raise RuntimeError(f"server: needed `listening on HOST:PORT`, got {line!r} and\n{log.read()}")
            yield Server(line.removeprefix("listening on ").strip(), process)
        finally:
            timer.cancel()
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT_S)
                process.kill()


def main() -> int:
    """Run the tour; return 0 if every result agrees with its closed form and the server stopped cleanly, else 1."""
    began_s = time.perf_counter()
    with start_server() as server:
        print(f"A gradwire server listens on {server.address}.")
        with connect(server.address) as client:
            found = client.capabilities()
            print(f"gradwire {found.server_version}: {found.worker_count} workers, {len(found.primitives)} primitives.")
            print("Left what it answers, right the closed form.")
            worst = tour(client)
        code = server.stop()
    count = sum(len(stop.checks) for stop in TOUR)
    print()
    elapsed_s = time.perf_counter() - began_s
    print(f"{count} results in {elapsed_s:.1f} s. The largest relative error is {worst:.1e}, of {TOLERANCE:.0e} allowed.")
    print(f"The server stopped with exit code {code}.")
    return 0 if worst <= TOLERANCE and code == 0 else 1


def tour(client: Client) -> float:
    """Print every result beside its closed form; return the largest relative error."""
    worst = 0.0
    for number, stop in enumerate(TOUR, 1):
        print(f"\n{number}. {stop.title}\n   {stop.rule}")
        for check in stop.checks:
            result = check.finish(check.ask(client))
            error = check.error(result)
            worst = max(worst, math.inf if math.isnan(error) else error)
            print("\n".join(show(check, result, error)))
    return worst


def show(check: Check, result: Any, error: float) -> Iterator[str]:
    """Yield the lines of one result: its numbers, those of the closed form, and the relative error."""
    got, expected = np.asarray(result, float), np.asarray(check.expected, float)
    shape = " x ".join(map(str, got.shape)) or "scalar"
    if got.ndim == 0 and expected.ndim == 0:
        yield f"     {check.label:<32}{got: .12g}".ljust(60) + f"{expected: .12g}".ljust(23) + f"error {error:.1e}"
        return
    yield f"     {check.label:<20}{shape:<14} error {error:.1e}"
    left, right = table(got, check.rank_out), table(expected, check.rank_out)
    width = max(map(len, left))
    for ours, theirs in zip(left, right, strict=True):
        yield f"       {ours:<{width}}   |  {theirs}"


def table(array: Array, rank_out: int) -> Sequence[str]:
    """Return an array as the lines of a matrix: a row an element of the output, a column an element of the input."""
    rows = int(np.prod(array.shape[:rank_out])) if array.ndim > 1 else 1
    matrix = array.reshape(rows, -1)
    return ["  ".join(f"{number: .5f}" if number else " 0".ljust(8) for number in row) for row in matrix.tolist()]


if __name__ == "__main__":
    sys.exit(main())
