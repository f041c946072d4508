"""One worker process as the front end sees it: start, exchange frames, end. The pool decides when."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Self

from gradwire_server.config import ServerConfig, worker_environ
from gradwire_server.frames import Frame, Kind, read_frame

_EXIT_TIMEOUT_S = 2.0
_DEATH_TIMEOUT_S = 0.5
# A process that ends by another signal was ended from outside: no task of ours sends any.
_OWN_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP}
)
_BUFFER_BYTES = 2**20
_WORKER_MODULE = "gradwire_server.worker"


class WorkerDiedError(Exception):
    """Raised when the process of a worker ended, or no longer speaks frames.

    Args:
        is_by_itself: whether what it did is the cause; else it was ended from outside.
    """

    def __init__(self, *, is_by_itself: bool) -> None:
        super().__init__("it ended by itself" if is_by_itself else "it was ended from outside")
        self.is_by_itself = is_by_itself


@dataclass(eq=False)
class WorkerProcess:
    """One worker process and the connection to it."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    has_answered: bool = False
    was_stopped: bool = False

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self.process.pid

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
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_BUFFER_BYTES)
            except BaseException:
                ours.close()
                raise
            try:
                process = await _start_python(theirs.fileno(), config)
            except BaseException:
                writer.close()
                raise
        return cls(process, reader, writer)

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

    async def exchange(self, task: Frame) -> Frame:
        """Send a frame and return the answer.

        Raises:
            WorkerDiedError: the worker died before its answer was complete.
        """
        try:
            self.writer.writelines(task.encode())
            await self.writer.drain()
            return await read_frame(self.reader)
        except (OSError, EOFError) as error:
            raise WorkerDiedError(is_by_itself=await self._ended_by_itself()) from error
        except (ValueError, struct.error) as error:
            self.kill()
            raise WorkerDiedError(is_by_itself=True) from error

    async def _ended_by_itself(self) -> bool:
        """Tell, once it has hung up, whether it did so by itself."""
        try:
            async with asyncio.timeout(_DEATH_TIMEOUT_S):
                await self.process.wait()
        except TimeoutError:  # it lives, and has hung up
            self.kill()
            return True
        return not self.was_ended_from_outside

    def stop(self) -> None:
        """End the process at once, on purpose: it is not to blame for it."""
        self.was_stopped = True
        self.kill()

    def kill(self) -> None:
        """End the process at once."""
        self.writer.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def close(self) -> None:
        """End the process by hanging up, or by force if that does not help."""
        self.writer.close()
        try:
            async with asyncio.timeout(_EXIT_TIMEOUT_S):
                await self.process.wait()
        except TimeoutError:
            self.kill()
            await self.process.wait()


async def _start_python(connection: int, config: ServerConfig) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", _WORKER_MODULE, str(connection)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        env=worker_environ(config),
        pass_fds=(connection,),
    )
