"""One worker process as the front end sees it: start, exchange frames, end. The pool decides when."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from gradwire_server.channel import Channel
from gradwire_server.config import ServerConfig, worker_environ
from gradwire_server.frames import Frame, Kind
from gradwire_server.handles import Listener, WorkerDiedError, exchange, prepare

_EXIT_TIMEOUT_S = 2.0
_DEATH_TIMEOUT_S = 0.5
# A process that ends by another signal was ended from outside: no task of ours sends any.
_OWN_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP}
)
_WORKER_MODULE = "gradwire_server.worker"


class _Line(asyncio.Protocol):
    """The stream to a worker: one answer is waited for at a time."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.error: Exception | None = None
        self._listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        """Have the next frame, or why there will be none, given to a function."""
        if self.error is None:
            self._listener = listener
        else:
            listener(self.error)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self.channel.feed(data):
                self._tell(frame)
        except (OSError, ValueError, struct.error) as error:
            self._fail(error)

    def connection_lost(self, error: Exception | None) -> None:
        self.channel.close()
        self._fail(error or EOFError())

    def _fail(self, error: Exception) -> None:
        if self.error is None:
            self.error = error
            self._tell(error)

    def _tell(self, found: Frame | Exception) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener(found)


@dataclass(eq=False)
class WorkerProcess:
    """One worker process and the connection to it."""

    process: asyncio.subprocess.Process
    line: _Line
    transport: asyncio.Transport
    has_answered: bool = False
    was_stopped: bool = False

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self.process.pid

    @property
    def has_hung_up(self) -> bool:
        """Whether it can be asked nothing more."""
        return self.line.error is not None or self.transport.is_closing()

    @property
    def was_ended_from_outside(self) -> bool:
        """Whether it has ended by a signal that no work of its own can raise."""
        code = self.process.returncode
        return code is not None and code < 0 and -code not in _OWN_SIGNALS

    @property
    def is_suspended(self) -> bool:
        """Whether it stands still by SIGSTOP or the like; a long computation does not."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # it has ended, and somebody has seen to it
            return False

    @classmethod
    async def launch(cls, config: ServerConfig) -> Self:
        """Start a process; it can do nothing before `configure`.

        Raises:
            OSError: the system refuses another process.
        """
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            our_side, their_side = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(their_side)
            line = _Line(Channel(our_side))
            ours.setblocking(False)
            try:
                transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: line, sock=ours)
            except BaseException:
                ours.close()
                line.channel.close()
                raise
            try:
                process = await start_python(_WORKER_MODULE, (theirs.fileno(), their_side.fileno()), config)
            except BaseException:
                transport.abort()
                raise
        return cls(process, line, transport)

    async def configure(self, config: ServerConfig) -> None:
        """Tell it the settings and wait until it is ready.

        Raises:
            WorkerDiedError: it ended before it was ready.
        """
        try:
            await self.exchange(Frame(Kind.CONFIGURE, (config.to_json(),)))
        except BaseException:
            self.kill()
            await self.process.wait()
            raise

    async def prepare(self, preloads: Sequence[tuple[str, bytes]]) -> None:
        """Have it compile the programs of files; see `handles.prepare`."""
        await prepare(self, preloads)

    def ask(self, task: Frame, listener: Listener) -> None:
        """Send a frame, and have its answer given to a function, or the error that there will be none for; see `explain_death`.

        It may be given at once.
        """
        try:
            data = self.line.channel.pack(task)
        except OSError as error:
            listener(error)
            return
        self.line.listen(listener)
        self.transport.write(data)

    async def exchange(self, task: Frame) -> Frame:
        """Send a frame and return the answer; see `handles.exchange`."""
        return await exchange(self, task)

    async def explain_death(self, error: Exception) -> WorkerDiedError:
        """Return why a worker did not answer; it has ended, or will at once."""
        if isinstance(error, (ValueError, struct.error)):
            self.kill()
            return WorkerDiedError(is_by_itself=True)
        return WorkerDiedError(is_by_itself=await self._ended_by_itself())

    async def _ended_by_itself(self) -> bool:
        """Tell, once it has hung up, whether it did so by itself."""
        try:
            async with asyncio.timeout(_DEATH_TIMEOUT_S):
                await self.process.wait()
        except TimeoutError:  # it lives, and has hung up
            self.kill()
            return True
        return not self.was_ended_from_outside

    async def wait(self) -> int:
        """Wait until the process has ended, and return its exit code."""
        code = await self.process.wait()
        self.transport.abort()
        return code

    def stop(self) -> None:
        """End the process at once, on purpose: it is not to blame for it."""
        self.was_stopped = True
        self.kill()

    def kill(self) -> None:
        """End the process at once."""
        self.transport.abort()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def close(self) -> None:
        """End the process by hanging up, or by force if that does not help."""
        self.transport.close()
        try:
            async with asyncio.timeout(_EXIT_TIMEOUT_S):
                await self.process.wait()
        except TimeoutError:
            self.kill()
            await self.process.wait()


class LocalWorkers:
    """Workers that are processes of this machine.

    Args:
        config: all settings.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config

    async def start(self) -> None:
        """Do nothing: there is nothing beside the processes."""

    async def close(self) -> None:
        """Do nothing."""

    async def launch(self) -> WorkerProcess:
        """Start a process."""
        return await WorkerProcess.launch(self._config)


async def start_python(module: str, connection: tuple[int, int], config: ServerConfig) -> asyncio.subprocess.Process:
    """Start a module as a process that inherits two descriptors, which are its arguments.

    Raises:
        OSError: the system refuses another process.
    """
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module, *map(str, connection)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        env=worker_environ(config),
        pass_fds=connection,
    )
