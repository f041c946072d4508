"""A worker as the pool sees it, wherever it runs: asked for answers, watched, ended. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from gradwire_server.config import ConfigError, ServerConfig
from gradwire_server.frames import Frame, Kind

Listener: TypeAlias = Callable[[Frame | Exception], None]


class WorkerDiedError(Exception):
    """Raised when the process of a worker ended, or no longer speaks frames.

    Args:
        is_by_itself: whether what it did is the cause; else it was ended from outside.
    """

    def __init__(self, *, is_by_itself: bool) -> None:
        super().__init__("it ended by itself" if is_by_itself else "it was ended from outside")
        self.is_by_itself = is_by_itself


class WorkerHandle(Protocol):
    """One worker.

    Attributes:
        has_answered: whether it has answered a task.
        was_stopped: whether it was ended on purpose.
    """

    has_answered: bool
    was_stopped: bool

    @property
    def pid(self) -> int:
        """The id of its process, on its machine."""

    @property
    def has_hung_up(self) -> bool:
        """Whether it can be asked nothing more."""

    @property
    def was_ended_from_outside(self) -> bool:
        """Whether it has ended by nothing that it did."""

    @property
    def is_suspended(self) -> bool:
        """Whether it stands still, as far as that can be seen."""

    async def configure(self, config: ServerConfig) -> None:
        """Tell it the settings and wait until it is ready; raise WorkerDiedError if it will not be."""

    async def prepare(self, preloads: Sequence[tuple[str, bytes]]) -> None:
        """Have it compile the programs of files; see the function of that name."""

    def ask(self, task: Frame, listener: Listener) -> None:
        """Send a frame, one at a time, and have its answer given to a function, or the error that there will be none for."""

    async def explain_death(self, error: Exception) -> WorkerDiedError:
        """Return why a worker did not answer; it has ended, or will at once."""

    async def wait(self) -> int:
        """Wait until it has ended, and return its exit code, or -1."""

    def stop(self) -> None:
        """End it at once, on purpose: it is not to blame for it."""

    async def close(self) -> None:
        """End it, by force if need be."""


class Workers(Protocol):
    """Where workers come from."""

    async def start(self) -> None:
        """Get ready to launch some; raise ConfigError where that cannot be."""

    async def launch(self) -> WorkerHandle:
        """Start a worker, which can do nothing before it is configured; raise OSError where the system refuses."""

    async def close(self) -> None:
        """Let go of what launches them; all have been closed."""


async def exchange(worker: WorkerHandle, task: Frame) -> Frame:
    """Send a frame to a worker and return the answer.

    Raises:
        WorkerDiedError: the worker died before its answer was complete.
    """
    answered: asyncio.Future[Frame | Exception] = asyncio.get_running_loop().create_future()
    worker.ask(task, lambda found: None if answered.done() else answered.set_result(found))
    found = await answered
    if isinstance(found, Exception):
        raise await worker.explain_death(found) from found
    return found


async def prepare(worker: WorkerHandle, preloads: Sequence[tuple[str, bytes]]) -> None:
    """Have a worker compile the programs of files, each an EvaluateRequest beside its path.

    Raises:
        WorkerDiedError: it ended.
        ConfigError: one does not compile.
    """
    for path, request in preloads:
        answer = await exchange(worker, Frame(Kind.COMPILE, (path.encode(), request)))
        if answer.kind is not Kind.READY:
            (status,) = answer.parts
            assert isinstance(status, bytes)
            why = Status.FromString(status).message
            raise ConfigError(f"preload: needed a program that compiles in {path}, got {why}")
