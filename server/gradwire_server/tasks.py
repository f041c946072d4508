"""Where tasks run, as those see it that have them run. Nothing else may live here."""

from __future__ import annotations

from typing import Protocol

from gradwire_server.frames import Frame


class Pool(Protocol):
    """What runs tasks: the worker pool of this process, or of another."""

    async def run(self, task: Frame, timeout_s: float) -> Frame:
        """Run a task on some worker and return the answer; as `WorkerPool.run` has it."""
