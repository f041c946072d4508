"""Servers under measurement: processes on loopback, started with equal settings, seen from outside, ended by their id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from gradwire_proto.v1 import differentiation_service_pb2_grpc as pb_grpc
from gradwire_server.config import ServerConfig, worker_environ

READY = "listening on "
SERVICE = "/gradwire.v1.DifferentiationService/"
PATIENCE_S = 60.0
ANY_SIZE = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def environment() -> dict[str, str]:
    """Return what every server and generator is started with: the threads and the allocator of gradwire's own workers."""
    return worker_environ(ServerConfig())


def free_port() -> int:
    """Return a port of the loopback that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def is_listening(address: str) -> bool:
    """Tell whether somebody takes connections at an address."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@dataclass
class Running:
    """A server that runs.

    Attributes:
        popen: its process.
        address: where it serves, HOST:PORT.
        metrics_address: where it tells its metrics; empty where it does not.
    """

    popen: subprocess.Popen[str]
    address: str
    metrics_address: str = ""

    @property
    def pids(self) -> list[int]:
        """The ids of its process and of all that descend from it."""
        return [self.popen.pid, *descendants(self.popen.pid)]

    @property
    def worker_pids(self) -> list[int]:
        """The ids of its worker processes, spares included."""
        return [pid for pid in self.pids if b"gradwire_server.worker" in _command_line(pid)]

    @property
    def proportional_bytes(self) -> int:
        """Memory of its front ends and workers, what they share counted once: the sum of their proportional set sizes."""
        return sum(proportional_bytes(pid) for pid in self.pids if b"gradwire_server" in _command_line(pid))

    @property
    def helper_bytes(self) -> int:
        """Memory of the processes that compile and calibrate for it: the sum of their proportional set sizes."""
        return sum(proportional_bytes(pid) for pid in self.pids if b"gradwire_core" in _command_line(pid))

    @property
    def is_native(self) -> bool:
        """Whether a worker has loaded what was compiled for it, and nothing is being compiled."""
        is_loaded = any(b"loops_" in _read(f"/proc/{pid}/maps") for pid in self.worker_pids)
        return is_loaded and not self.helper_bytes

    def settle(self) -> int:
        """Wait until its memory does not grow any more, as after it has started; return that of its front ends and workers."""
        found = [0]
        while len(found) < 2 or found[-1] > found[-2] + 2**18:
            time.sleep(1.0)
            found.append(self.proportional_bytes)
        return found[-1]

    @property
    def resident_bytes(self) -> int:
        """Memory of all its processes: the sum of their resident set sizes."""
        return sum(resident_bytes(pid) for pid in self.pids)

    def metric(self, name: str, label: str = "") -> float:
        """Return a metric summed over its labels, or over those sets of them that have one, `name="value"`, among them."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=PATIENCE_S) as answer:  # our own
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.partition("{")[0].partition(" ")[0] == name and label in line]
        return sum(float(line.rpartition(" ")[2]) for line in found)


@contextlib.contextmanager
def running(command: Sequence[str], *, show_errors: bool = False, **environ: str) -> Iterator[Running]:
    """Run a server that prints where it listens, for the length of a block; what it complains of is shown where that fails."""
    with tempfile.TemporaryFile("w+") as complaints:
        popen = subprocess.Popen(
            # Not in a session of its own: Linux schedules sessions as groups, and that of a generator may wait long for its turn.
            command,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=environment() | environ,
            process_group=0,
        )
        try:
            yield Running(popen, _address(popen))
        except BaseException:
            _show(complaints)
            raise
        else:
            if show_errors:
                _show(complaints)
        finally:
            _end(popen)


@contextlib.contextmanager
def gradwire(*arguments: str, show_errors: bool = False) -> Iterator[Running]:
    """Run gradwire's server with its metrics on."""
    metrics = f"127.0.0.1:{free_port()}"
    flags = ("--listen", "127.0.0.1:0", "--metrics-listen", metrics, "--log-level", "error", *arguments)
    with running([sys.executable, "-m", "gradwire_server", *flags], show_errors=show_errors) as server:
        server.metrics_address = metrics
        yield server


def knows(flag: str) -> bool:
    """Tell whether the server has a setting."""
    return flag.removeprefix("--").replace("-", "_") in ServerConfig.__dataclass_fields__


@contextlib.contextmanager
def stub(address: str, kind: Callable[[grpc.Channel], Any] = pb_grpc.DifferentiationServiceStub) -> Iterator[Any]:
    """Connect to a server, for the service of a kind of stub; messages of any size pass."""
    with grpc.insecure_channel(address, options=ANY_SIZE) as channel:
        yield kind(channel)


def descendants(pid: int) -> list[int]:
    """Return the ids of the processes that descend from one."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def proportional_bytes(pid: int) -> int:
    """Return the proportional set size of a process; 0 for one that ended."""
    return _kilobytes(pid, "smaps_rollup", "Pss:")


def resident_bytes(pid: int) -> int:
    """Return the resident set size of a process; 0 for one that ended."""
    return _kilobytes(pid, "status", "VmRSS:")


def _kilobytes(pid: int, file: str, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _command_line(pid: int) -> bytes:
    return _read(f"/proc/{pid}/cmdline")


def _read(path: str) -> bytes:
    """Return what is in a file of a process; nothing for one that ended."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _address(popen: subprocess.Popen[str]) -> str:
    """Wait until a server tells where it listens."""
    line = popen.stdout.readline()
    if not line.startswith(READY):
        raise RuntimeError(f"{popen.args}: did not start")
    return line.removeprefix(READY).strip()


def _show(complaints: object) -> None:
    complaints.seek(0)
    text = complaints.read()
    if text:
        print(text[-4000:], file=sys.stderr)


def _end(popen: subprocess.Popen[str]) -> None:
    """End a server and what it started, none of which is left behind."""
    popen.terminate()
    try:
        popen.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        print(f"process {popen.pid} did not end when asked to", file=sys.stderr)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
        popen.stdout.close()
