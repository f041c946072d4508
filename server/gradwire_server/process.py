"""One worker process as the front end sees it: start, exchange frames, end. The pool decides when."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Self

from gradwire_server.config import ServerConfig, worker_environ
from gradwire_server.frames import Frame, Kind, read_frame

_EXIT_TIMEOUT_S = 2.0
_BUFFER_BYTES = 2**20
_WORKER_MODULE = "gradwire_server.worker"


class WorkerDiedError(Exception):
    """Raised when the process of a worker ended, or no longer speaks frames."""


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

    @classmethod
    async def start(cls, config: ServerConfig) -> Self:
        """Start a process and wait until it is ready.

        Raises:
            WorkerDiedError: it ended before it was ready.
            OSError: the system refuses another process.
        """
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_BUFFER_BYTES)
        try:
            with theirs:
                process = await _start_python(theirs.fileno(), config)
        except BaseException:
            writer.close()
            raise
        worker = cls(process, reader, writer)
        try:
            await worker.exchange(Frame(Kind.CONFIGURE, (config.to_json(),)))
        except BaseException:
            worker.kill()
            await process.wait()
            raise
        return worker

    async def exchange(self, task: Frame) -> Frame:
        """Send a frame and return the answer.

        Raises:
            WorkerDiedError: the worker died before its answer was complete.
        """
        try:
            self.writer.writelines(task.encode())
            await self.writer.drain()
            return await read_frame(self.reader)
        except (OSError, EOFError, ValueError, struct.error) as error:
            self.kill()
            raise WorkerDiedError from error

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
