"""Where tasks run, as those see it that have them run. Nothing else may live here."""

from __future__ import annotations

from typing import Protocol

from gradwire_server.frames import Frame, Prediction


class Pool(Protocol):
    """What runs tasks: the worker pool of this process, or of another."""

    async def run(self, task: Frame, timeout_s: float) -> Frame:
        """Run a task on some worker and return the answer; as `WorkerPool.run` has it."""


class TaskPool(Protocol):
    """What keeps workers and runs tasks, wherever the workers are."""

    @property
    def pids(self) -> list[int]:
        """The ids of the worker processes that take tasks, each on its own machine."""

    @property
    def queue_length(self) -> int:
        """The number of tasks that wait for a worker."""

    async def start(self) -> None:
        """Start all workers and wait until each is ready; raise ConfigError if one is not."""

    async def close(self) -> None:
        """End all workers; tasks that still wait fail with WorkerLostError."""

    async def run(self, task: Frame, timeout_s: float, *, key: bytes | None = None, cost: Prediction | None = None) -> Frame:
        """Run a task on some worker and return the answer; who is cancelled gives it up. As `WorkerPool.run` has it."""
