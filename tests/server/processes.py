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
from tests.server.requests import PATIENCE_S, quick

READY = "listening on "


@dataclass
class Process:
    """A running server."""

    popen: subprocess.Popen[str]
    address: str
    complaints: Path

    @property
    def worker_pids(self) -> set[int]:
        """The ids of its child processes."""
        pid = self.popen.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(PATIENCE_S)

    @contextmanager
    def connected(self) -> Iterator[pb_grpc.DifferentiationServiceStub]:
        with grpc.insecure_channel(self.address) as channel:
            yield pb_grpc.DifferentiationServiceStub(channel)


def start(*arguments: str, stderr: IO[str] | int = subprocess.PIPE, **environ: str) -> subprocess.Popen[str]:
    """Start the command; what it prints is piped."""
    command = [sys.executable, "-m", "gradwire_server", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | environ)


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
        start("--listen", "127.0.0.1:0", *arguments, stderr=complaints) as popen,
    ):
        path = Path(complaints.name)
        try:
            line = popen.stdout.readline()
            assert line.startswith(READY), path.read_text()
            yield Process(popen, line.removeprefix(READY).strip(), path)
        finally:
            if popen.poll() is None:
                popen.terminate()
            popen.communicate(timeout=PATIENCE_S)


def occupy(stub: pb_grpc.DifferentiationServiceStub, request: pb.EvaluateRequest, timeout_s: float = PATIENCE_S) -> Any:
    """Start a call that takes the only worker of a server without a queue, and return it once it has: others are refused."""
    while True:
        running = stub.Evaluate.future(request, timeout=timeout_s)
        while not running.done():
            if not is_answered(stub):
                return running
        assert running.code() is grpc.StatusCode.UNAVAILABLE, running  # refused itself, since a probe was in its way


def is_answered(stub: pb_grpc.DifferentiationServiceStub) -> bool:
    """Whether a small request is answered, and not refused."""
    try:
        stub.Evaluate(quick(), timeout=PATIENCE_S)
    except grpc.RpcError:
        return False
    return True


def is_alive(pid: int) -> bool:
    """Whether a process exists."""
    return Path(f"/proc/{pid}").exists()
