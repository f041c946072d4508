"""Servers as processes of their own, on free ports of the loopback, ended by their id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import grpc

from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import differentiation_service_pb2_grpc as pb_grpc
from tests.server.requests import PATIENCE_S, wait_until

READY = "listening on "
FRONT_ENDS = os.environ.get("GRADWIRE_TEST_FRONT_ENDS", "1")
"""How many front ends servers under test have that are not told: with more than one, the tests of this folder pass as well."""
_BUSY_TICKS = 10


@dataclass
class Process:
    """A running server."""

    popen: subprocess.Popen[str]
    address: str
    channel: grpc.Channel
    complaints: Path

    @property
    def worker_pids(self) -> set[int]:
        """The ids of its workers."""
        return self._children("gradwire_server.worker")

    @property
    def front_pids(self) -> set[int]:
        """The ids of its front ends, where they are several."""
        return self._children("gradwire_server.front_process")

    def _children(self, module: str) -> set[int]:
        pid = self.popen.pid
        found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return {child for child in found if module in command_line(child)}

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(PATIENCE_S)

    @property
    def stub(self) -> pb_grpc.DifferentiationServiceStub:
        return pb_grpc.DifferentiationServiceStub(self.channel)


def start(
    *arguments: str, stdout: IO[str] | int = subprocess.PIPE, stderr: IO[str] | int = subprocess.PIPE, **environ: str
) -> subprocess.Popen[str]:
    """Start the command; what it prints is piped, unless told otherwise."""
    command = [sys.executable, "-m", "gradwire_server", *arguments]
    return subprocess.Popen(command, stdout=stdout, stderr=stderr, text=True, env=os.environ | environ)


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command to its end and return its exit code, what it printed, and what it complained of."""
    with start(*arguments) as popen:
        out, err = popen.communicate(timeout=PATIENCE_S)
        return popen.returncode, out, err


@contextmanager
def serving(*arguments: str) -> Iterator[Process]:
    """Run a server on a free port for the length of a block; what it complains of goes to a file, which never fills up."""
    with (
        tempfile.NamedTemporaryFile("w+") as complaints,
        start("--listen", "127.0.0.1:0", "--front-ends", FRONT_ENDS, *arguments, stderr=complaints) as popen,
    ):
        path = Path(complaints.name)
        try:
            line = popen.stdout.readline()
            assert line.startswith(READY), "the server did not start"
            address = line.removeprefix(READY).strip()
            with grpc.insecure_channel(address) as channel:
                yield Process(popen, address, channel, path)
        except BaseException:
            print(path.read_text())
            raise
        finally:
            if popen.poll() is None:
                popen.terminate()
            popen.communicate(timeout=PATIENCE_S)


def occupy(server: Process, request: pb.EvaluateRequest, timeout_s: float = PATIENCE_S) -> Any:
    """Start a call of the only worker of a server, and return it once the worker is at it."""
    (pid,) = server.worker_pids
    before = cpu_ticks(pid)
    running = server.stub.Evaluate.future(request, timeout=timeout_s)
    wait_until(lambda: cpu_ticks(pid) > before + _BUSY_TICKS)
    assert not running.done()
    return running


def cpu_ticks(pid: int) -> int:
    """The time a process has computed, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def command_line(pid: int) -> str:
    """What a process was started by; empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process exists."""
    return Path(f"/proc/{pid}").exists()
