"""How a program goes over to compiled code: it runs as it is until it is hot, then both ways in turns, and then by the faster one.

    as it is --`HOT_SECONDS`--> as it is, while the tier compiles in its thread --> both in turns, `TRIALS` times --> the faster

Without the tier, or where the compiler fails, what runs the program serves for ever.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from gradwire_core.native import tier as tiers
from gradwire_core.types import Array

TRIALS = 10
"""So often each of the two ways to run a program is timed, and the fastest of these times counts."""

Runner = Callable[..., tuple[Array, ...]]


class Rival(Protocol):
    """Compiled code of a whole program."""

    @property
    def run(self) -> Runner:
        """What returns the outputs for the inputs."""

    @property
    def kernels(self) -> Sequence[object]:
        """What it consists of, each to be printed."""


Make = Callable[[], Rival | None]
Settle = Callable[[Runner, Sequence[object] | None], None]


class Asked(Protocol):
    """What compiles, as `Tier` does."""

    def ask_for(self, make: Make, take: Callable[[Rival], None]) -> bool:
        """Have something compiled by `make`, which may decline, and given to `take`; tell whether it will be."""


class Contest:
    """Runs a program; threads may share it.

    Args:
        tier: compiles.
        run: computes the outputs for the inputs.
        watch: computes them as well, and returns with them what makes the rival, which another thread calls.
        settle: is given what is to be called from then on, and the kernels of the rival if it is that.
    """

    def __init__(
        self, tier: Asked, run: Runner, watch: Callable[..., tuple[tuple[Array, ...], Make]], settle: Settle | None = None
    ) -> None:
        self._tier = tier
        self._run = run
        self._watch = watch
        self._settle = settle
        self._rival: Rival | None = None
        self._spent_s = 0.0
        self._is_asked = False
        self._is_over = False
        self._turns = itertools.count()
        self._best_s = [math.inf, math.inf]

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """Return the outputs for the inputs."""
        if self._is_over:
            return self._run(*arrays)
        if self._rival is not None:
            return self._try(self._rival, arrays)
        if self._spent_s > tiers.HOT_SECONDS and not self._is_asked:
            return self._ask(arrays)
        began = time.perf_counter()
        outputs = self._run(*arrays)
        self._spent_s += time.perf_counter() - began
        return outputs

    def _ask(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        """Return the outputs, and have the rival compiled; should too much wait there, it is asked again after as long."""
        self._is_asked, is_asked = True, False
        try:
            outputs, make = self._watch(*arrays)
            is_asked = self._tier.ask_for(functools.partial(self._make, make), self._take)
        finally:
            self._is_asked, self._spent_s = is_asked, 0.0
        return outputs

    def _make(self, make: Make) -> Rival | None:
        found = None
        try:
            found = make()
        finally:
            if found is None:
                self._end(self._run, None)
        return found

    def _take(self, rival: Rival) -> None:
        self._rival = rival

    def _try(self, rival: Rival, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        """Return the outputs by the one whose turn it is, and end the contest after enough turns."""
        turn = next(self._turns)
        place = turn % 2
        began = time.perf_counter()
        outputs = (self._run, rival.run)[place](*arrays)
        self._best_s[place] = min(self._best_s[place], time.perf_counter() - began)
        if turn + 1 >= 2 * TRIALS:
            is_won = self._best_s[1] < self._best_s[0]
            self._end(rival.run if is_won else self._run, rival.kernels if is_won else None)
        return outputs

    def _end(self, run: Runner, kernels: Sequence[object] | None) -> None:
        """Have it run by this from now on."""
        self._run, self._is_over, self._rival = run, True, None
        if self._settle is not None:
            self._settle(run, kernels)
