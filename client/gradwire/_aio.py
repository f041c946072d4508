"""The client for asyncio: the functions of gradwire, computed by a server and awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gradwire._config import ClientConfig
from gradwire._mapping import IN_FLIGHT, tasks
from gradwire._program import Program as TracedProgram
from gradwire._progress import Progress
from gradwire._remote_aio import AsyncBackend
from gradwire._session import Capabilities
from gradwire._task import Task
from gradwire._transforms import Function, Functions
from gradwire_core.program import Program

if TYPE_CHECKING:
    from gradwire_core.engine import Output


class AsyncClient(Functions):
    """The functions of gradwire, computed by a server and awaited; it belongs to the event loop of its first call.

    What `Client` returns from a call is awaited here: `await client.grad(f)(x)`, `await client.jvp(f, primals, tangents)`;
    from `await client.vjp(f, x)` comes a pullback that is awaited in turn.

    Args:
        target: the address of the server, `host:port`.
        config: how the client behaves; by default as the environment says.

    Example:
        >>> import asyncio, gradwire as gw
        >>> async def main():
        ...     async with gw.AsyncClient("localhost:50051") as client:
        ...         return client.grad(lambda x: x**2)
        >>> slope = asyncio.run(main())
    """

    def __init__(self, target: str, config: ClientConfig | None = None) -> None:
        config = config or ClientConfig.from_environ()
        self._is_reproducible = config.reproducible
        self._backend = AsyncBackend(target, config)

    async def capabilities(self) -> Capabilities:
        """Return what the server can do: its primitives, transforms, limits and versions.

        Raises:
            UnreachableError: no server answers.
        """
        return await self._backend.drive(self._backend.session.capabilities())  # type: ignore[no-any-return]

    async def register(self, program: Program) -> str:
        """Store a program at the server and return its name, `programs/` and the digest. Doing so again changes nothing.

        Raises:
            UnreachableError: no server answers.
        """
        return await self._backend.drive(self._backend.session.register(program))  # type: ignore[no-any-return]

    def map(
        self, f: Function | TracedProgram, *arguments: Iterable[Any], in_flight: int = IN_FLIGHT, progress: bool = True
    ) -> AsyncIterator[Any]:
        """Return an asynchronous iterator of `f(*args)` for each args of `zip(*arguments)`, in their order.

        Several are computed at a time. The arguments may be endless: so many are taken as are under way. The first call that fails
        ends it, with its error.

        Args:
            f: a function of this client, such as `client.grad(loss)`; another one, or a `Program`, is evaluated.
            arguments: for each argument of `f` its values, all equally many.
            in_flight: the most calls that are under way at a time.
            progress: whether a line on stderr shows how far it is, if that is a terminal and it takes longer than a moment.

        Raises:
            ArgumentError: `in_flight` is no positive integer.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> async def slopes(client: gw.AsyncClient, batches):
            ...     return [slope async for slope in client.map(client.grad(lambda x: np.sum(x**2)), batches)]
        """
        given = tasks(f, arguments, in_flight, reproducible=self._is_reproducible)
        answers = self._backend.drive_each(map(self._backend.session.run, given), in_flight)
        return Progress(arguments, is_shown=progress).follow_async(answers)

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._backend.close()

    async def _perform(self, task: Task) -> Any:
        return await self._backend.drive(self._backend.session.run(task))

    async def _explain(self, program: Program, outputs: Sequence[Output], names: Sequence[str], format: str) -> Any:
        return await self._backend.drive(self._backend.session.explain(program, outputs, format, names))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncClient of {self._backend.session.target}>"
