"""The processes that send, seen from the one that started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self

from gradwire_core.errors import InternalError
from gradwire_load import process
from gradwire_load.arrivals import Arrivals
from gradwire_load.generator import Batch, Share
from gradwire_load.process import Done, Ready, Run, Stop
from gradwire_load.transport import Route

START_S = 60.0  # for a process to start
LEAD_S = 0.2  # between an order and its beginning, so that all begin together
TICK_S = 0.25
END_S = 10.0


class Fleet:
    """Processes that send shares of a load, for the length of a `with` block.

    Args:
        route: where to.
        shares: what, one for each process.
    """

    def __init__(self, route: Route, shares: Sequence[Share]) -> None:
        context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        for share in shares:
            ours, theirs = context.Pipe()
            child = context.Process(
                target=process.main, args=(theirs, route, share), daemon=True, name=f"gradwire-load-{share.number}"
            )
            child.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(child)

    def __enter__(self) -> Self:
        """Wait until all processes take orders.

        Raises:
            InternalError: one did not start.
        """
        deadline_s = time.monotonic() + START_S
        for number, pipe in enumerate(self._pipes):
            if not pipe.poll(max(0.0, deadline_s - time.monotonic())) or not isinstance(self._receive(number), Ready):
                raise InternalError(f"load: needed process {number} to start within {START_S:g} s, got none; try again")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None) -> None:
        """End the processes."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for child in self._processes:
            child.join(END_S if kind is None else 1.0)
            if child.is_alive():
                child.kill()
                child.join()
        for pipe in self._pipes:
            pipe.close()

    def run(
        self, arrivals: Arrivals, start: Callable[[float], None], take: Callable[[int, Batch], None], tick: Callable[[], bool]
    ) -> None:
        """Send, until all that was sent has ended.

        Args:
            arrivals: when.
            start: told the time on the monotonic clock at which it begins.
            take: given the number of a process and what happened there.
            tick: called some times a second; False stops the run.

        Raises:
            InternalError: a process ended unasked.
        """
        began_s = time.monotonic() + LEAD_S
        start(began_s)
        self._order(Run(arrivals, began_s))
        running = set(range(len(self._pipes)))
        stopped = False
        while running:
            pipes = {id(self._pipes[number]): number for number in running}
            for pipe in wait([self._pipes[number] for number in running], TICK_S):
                number = pipes[id(pipe)]
                report = self._receive(number)
                if isinstance(report, Done):
                    running.discard(number)
                elif isinstance(report, Batch):
                    take(number, report)
            if not stopped and not tick():
                self._order(Stop())
                stopped = True

    def _order(self, order: Run | Stop) -> None:
        for pipe in self._pipes:
            pipe.send(order)

    def _receive(self, number: int) -> Any:
        try:
            return self._pipes[number].recv()
        except (EOFError, OSError) as error:
            code = self._processes[number].exitcode
            text = f"load: needed process {number} to run on, got its end with code {code}; see what it printed"
            raise InternalError(text, process=number, code=code) from error
