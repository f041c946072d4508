"""The client: the functions of gradwire, computed by a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gradwire._config import ClientConfig
from gradwire._mapping import IN_FLIGHT, tasks
from gradwire._program import Program as TracedProgram
from gradwire._progress import Progress
from gradwire._remote import SyncBackend
from gradwire._session import Capabilities
from gradwire._task import Task
from gradwire._transforms import Function, Functions
from gradwire_core.program import Program

if TYPE_CHECKING:
    from gradwire_core.engine import Output


class Client(Functions):
    """The functions of gradwire, computed by a server. Safe to use from threads.

    Args:
        target: the address of the server, `host:port`.
        config: how the client behaves; by default as the environment says.

    Example:
        >>> import gradwire as gw
        >>> with gw.Client("localhost:50051") as client:
        ...     slope = client.grad(lambda x: x**2)
    """

    def __init__(self, target: str, config: ClientConfig | None = None) -> None:
        config = config or ClientConfig.from_environ()
        self._is_reproducible = config.reproducible
        self._backend = SyncBackend(target, config)

    def capabilities(self) -> Capabilities:
        """Return what the server can do: its primitives, transforms, limits and versions.

        Raises:
            UnreachableError: no server answers.
        """
        return self._backend.drive(self._backend.session.capabilities())  # type: ignore[no-any-return]

    def register(self, program: Program) -> str:
        """Store a program at the server and return its name, `programs/` and the digest. Doing so again changes nothing.

        Raises:
            UnreachableError: no server answers.
        """
        return self._backend.drive(self._backend.session.register(program))  # type: ignore[no-any-return]

    def map(
        self, f: Function | TracedProgram, *arguments: Iterable[Any], in_flight: int = IN_FLIGHT, progress: bool = True
    ) -> Iterator[Any]:
        """Return an iterator of `f(*args)` for each args of `zip(*arguments)`, in their order.

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
            >>> def slopes(client: gw.Client, batches):
            ...     return np.mean(list(client.map(client.grad(lambda x: np.sum(x**2)), batches)), axis=0)
        """
        given = tasks(f, arguments, in_flight, reproducible=self._is_reproducible)
        answers = self._backend.drive_each(map(self._backend.session.run, given), in_flight)
        return Progress(arguments, is_shown=progress).follow(answers)

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._backend.close()

    def _perform(self, task: Task) -> Any:
        return self._backend.drive(self._backend.session.run(task))

    def _explain(self, program: Program, outputs: Sequence[Output], names: Sequence[str], format: str) -> Any:
        return self._backend.drive(self._backend.session.explain(program, outputs, format, names))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self._backend.session.target}>"


def connect(target: str, **settings: Any) -> Client:
    """Return a client of a server; close it, or use it in a `with` block.

    Args:
        target: the address of the server, `host:port`.
        settings: fields of `ClientConfig` that differ from what the environment says.

    Raises:
        ArgumentError: a setting is unknown or malformed.

    Example:
        >>> import gradwire as gw
        >>> with gw.connect("localhost:50051", timeout_s=5.0) as client:
        ...     slope = client.grad(lambda x: x**2)
        >>> with gw.connect("derivatives.example.org:50051", tls=True, token="0123456789abcdef") as client:
        ...     slope = client.grad(lambda x: x**2)
    """
    return Client(target, ClientConfig.from_environ(**settings))
