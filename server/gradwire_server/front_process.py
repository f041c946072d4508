"""What runs in a process of its own where several serve one address: a front end, whose workers and stores another process keeps.

Start: `python -m gradwire_server.front_process FD FD`, the inherited ends of the link to the process that keeps them. That process
decides when this one ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import socket
import struct
import sys
from collections.abc import Sequence

import numpy as np

from gradwire_core.errors import WorkerLostError
from gradwire_server.admission import draining
from gradwire_server.config import ConfigError, ServerConfig, forbid_fork_handlers
from gradwire_server.exposition import encode_samples, make_metrics
from gradwire_server.frames import Frame, Kind, Prediction
from gradwire_server.lean import staying_lean
from gradwire_server.link import Answerer, Link, Verb
from gradwire_server.logs import configure_logging
from gradwire_server.loops import leaving_alone, make_runner
from gradwire_server.memory import end_with_parent
from gradwire_server.metrics import PrometheusMetrics
from gradwire_server.programs import StoredProgram
from gradwire_server.replicas import DONE, ProgramCodec, Replica, TensorCodec
from gradwire_server.stores import Stores
from gradwire_server.tensors import StoredTensor, TensorStore

_RUN = struct.Struct("<ddq??")
_USES_INTERVAL_S = 1.0


def encode_run(timeout_s: float, key: bytes | None, cost: Prediction | None) -> bytes:
    """Return the arguments of a task for the pool."""
    seconds, peak_bytes, is_stackable = (0.0, -1, False) if cost is None else (cost.seconds, cost.peak_bytes, cost.is_stackable)
    return _RUN.pack(timeout_s, seconds, peak_bytes, is_stackable, key is not None) + (key or b"")


def decode_run(arguments: bytes) -> tuple[float, bytes | None, Prediction | None]:
    """Return timeout, key and cost of a task for the pool."""
    timeout_s, seconds, peak_bytes, is_stackable, has_key = _RUN.unpack_from(arguments)
    cost = None if peak_bytes < 0 else Prediction(seconds, peak_bytes, is_stackable)
    return timeout_s, arguments[_RUN.size :] if has_key else None, cost


class RemotePool:
    """The worker pool of another process.

    Args:
        link: to that process.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    async def run(self, task: Frame, timeout_s: float, *, key: bytes | None = None, cost: Prediction | None = None) -> Frame:
        """Run a task on some worker and return the answer; as `WorkerPool.run`.

        Raises:
            DrainingError: that process is gone, and so this one will be.
        """
        try:
            return await self._link.ask(Verb.RUN, encode_run(timeout_s, key, cost), task)
        except WorkerLostError:
            if self._link.ended.is_set():
                raise draining() from None
            raise


class FrontProcess:
    """Answers the process that keeps the workers: begins, serves, stops."""

    def __init__(self) -> None:
        self._programs: Replica[StoredProgram] | None = None
        self._tensors: Replica[StoredTensor] | None = None
        self._metrics = make_metrics("")
        self._stack = contextlib.AsyncExitStack()

    async def run(self, stream: socket.socket, descriptors: socket.socket) -> None:
        """Answer until the other side hangs up."""
        answerers: dict[Verb, Answerer] = {
            Verb.BEGIN: self._begin,
            Verb.CHANGE: self._change,
            Verb.SERVE: lambda _arguments, _frame: self._serve(),
            Verb.METRICS: lambda _arguments, _frame: self._collect(),
            Verb.STOP: lambda _arguments, _frame: self._stop(),
        }
        self._link = Link(descriptors, answerers)
        await self._link.open(stream)
        telling = asyncio.create_task(self._tell_uses())
        async with staying_lean():
            await self._link.ended.wait()
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        gc.collect()  # what is left of gRPC ends with the event loop, not after it

    def _begin(self, arguments: bytes, frame: Frame) -> Frame:
        """Take the settings, and the programs that everyone sees."""
        self._config = config = ServerConfig.from_json(arguments)
        configure_logging(config.log_level, config.log_format)
        self._metrics = make_metrics(config.metrics_listen)
        codec = ProgramCodec()
        parts = iter(frame.parts)
        common = {bytes(digest).decode(): codec.decode((next(parts), next(parts))) for digest in parts}  # type: ignore[arg-type]
        self._programs = Replica("programs", codec, self._link, is_shared=config.shared_programs, common=common)
        self._tensors = Replica("tensors", TensorCodec(), self._link, is_shared=config.shared_tensors)
        return DONE

    def _change(self, arguments: bytes, frame: Frame) -> Frame:
        given = json.loads(arguments)
        store: Replica[StoredProgram] | Replica[StoredTensor] | None
        store = self._programs if given["store"] == "programs" else self._tensors
        assert store is not None
        store.change(given["put"], given["left"], frame)
        return DONE

    async def _serve(self) -> Frame:
        """Serve from now on; answer with a complaint if that cannot be."""
        from gradwire_server.front import FrontEnd  # which needs gRPC

        assert self._programs is not None
        assert self._tensors is not None
        stores = Stores(self._programs, TensorStore(self._config, self._tensors))
        try:
            front = FrontEnd(self._config, RemotePool(self._link), stores, self._metrics, shares_port=True)
            await self._stack.enter_async_context(front)
            self._stack.enter_context(leaving_alone())
        except ConfigError as error:
            return Frame(Kind.ERROR, (str(error).encode(),))
        return DONE

    async def _stop(self) -> Frame:
        await self._stack.aclose()
        return DONE

    def _collect(self) -> Frame:
        found = encode_samples(self._metrics.registry) if isinstance(self._metrics, PrometheusMetrics) else b"[]"
        return Frame(Kind.READY, (found,))

    async def _tell_uses(self) -> None:
        while True:
            await asyncio.sleep(_USES_INTERVAL_S)
            for store in (self._programs, self._tensors):
                if store is not None:
                    await store.tell_uses()


def main(argv: Sequence[str]) -> int:
    """Serve until the process that keeps the workers hangs up; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the process that keeps the workers decides when this one ends
    end_with_parent()
    forbid_fork_handlers()
    np.seterr(all="ignore")  # NaN and inf are results
    stream, descriptors = (socket.socket(fileno=int(item)) for item in argv)
    with make_runner() as runner:
        runner.run(FrontProcess().run(stream, descriptors))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
