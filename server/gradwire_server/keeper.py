"""A server of several front ends: they share an address, and this process keeps what they share, workers and stores.

    front end --link--> keeper --> worker pool        each front end is a process with an event loop of its own
    front end --link--> keeper --> stores

A front end that dies is replaced; its clients connect again, to it or to another. Nothing here speaks gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from gradwire_core.errors import GradwireError, WorkerLostError
from gradwire_server.addresses import reserve, warn_of_risks
from gradwire_server.config import ConfigError, ServerConfig
from gradwire_server.exposition import Sum, add_samples, encode_samples, keep_totals, make_metrics, serving_metrics
from gradwire_server.frames import Frame, Kind, Part
from gradwire_server.front_process import decode_run
from gradwire_server.link import Answerer, Link, Verb
from gradwire_server.metrics import PrometheusMetrics
from gradwire_server.pools import make_pool
from gradwire_server.preload import Preload, read_preloads
from gradwire_server.process import start_python
from gradwire_server.replicas import DONE, KeptStore, ProgramCodec, TensorCodec
from gradwire_server.sharding import Sharding
from gradwire_server.stores import make_programs, make_tensors

_LOGGER = logging.getLogger(__name__)
_MODULE = "gradwire_server.front_process"
_ACKNOWLEDGE_TIMEOUT_S = 5.0
_EXIT_TIMEOUT_S = 3.0
_WATCH_INTERVAL_S = 0.5
_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 2.0


@dataclasses.dataclass(eq=False)
class _Front:
    """A process that serves gRPC.

    Attributes:
        process: the process.
        link: to it.
        changing: held while a change is told, so that changes come in their order.
        samples: its metrics, as they were last.
    """

    process: asyncio.subprocess.Process
    link: Link
    changing: asyncio.Lock
    samples: bytes = b"[]"

    @property
    def is_suspended(self) -> bool:
        """Whether it stands still by SIGSTOP or the like."""
        try:
            return os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return False

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class Keeper:
    """A server: `async with Keeper(config) as server` serves until the block ends, then drains.

    Args:
        config: all settings.

    Raises:
        ConfigError: a package is missing, or a file that the configuration names cannot be used.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self._metrics = metrics = make_metrics(config.metrics_listen)
        self._preloads: Sequence[Preload] = read_preloads(config)
        self._pool = make_pool(config, metrics, [(item.path, item.request) for item in self._preloads])
        self._sharding = Sharding(self._pool, config.workers, metrics)
        self._programs = KeptStore(
            "programs", make_programs(config, {}), ProgramCodec(), self._publish, metrics.set_stored_programs
        )
        self._tensors = KeptStore("tensors", make_tensors(config), TensorCodec(), self._publish, metrics.set_stored_tensors)
        self._fronts: set[_Front] = set()
        self._ended_samples = b"[]"
        self._loop: asyncio.AbstractEventLoop | None = None
        self.address = config.listen

    async def __aenter__(self) -> Self:
        """Start workers and front ends.

        Raises:
            ConfigError: an address cannot be served on, or processes do not start.
        """
        self._loop = asyncio.get_running_loop()
        config = self._config
        async with AsyncExitStack() as stack:
            if isinstance(self._metrics, PrometheusMetrics):
                stack.enter_context(serving_metrics(config.metrics_listen, Sum(self._collect)))
            holder, self.address = reserve("listen", config.listen)
            stack.enter_context(holder)
            told: dict[str, Any] = {"listen": self.address}
            if config.health_listen:
                holder, told["health_listen"] = reserve("health_listen", config.health_listen)
                stack.enter_context(holder)
            self._told = dataclasses.replace(config, **told)
            stack.push_async_callback(self._pool.close)
            await self._pool.start()
            warn_of_risks(config)
            stack.push_async_callback(self._stop)
            started = await asyncio.gather(*(self._start_front() for _ in range(config.front_ends)))
            keepers = [asyncio.create_task(self._keep(front)) for front in started]
            keepers.append(asyncio.create_task(self._watch()))
            stack.push_async_callback(_cancel, keepers)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Drain all front ends, then stop them and the workers."""
        await self._stack.aclose()

    # -- front ends ------------------------------------------------------------------------------------------------------------

    async def _start_front(self) -> _Front:
        """Start a front end and wait until it serves.

        Raises:
            ConfigError: it does not.
        """
        front = None
        try:
            async with asyncio.timeout(self._config.worker_start_timeout_s):
                front = await self._launch()
                await self._begin(front)
                answer = await front.link.ask(Verb.SERVE)
        except (OSError, TimeoutError, GradwireError) as error:
            if front is not None:
                self._dismiss(front)
            raise ConfigError(f"front end: needed one that starts, got {str(error) or 'none in time'}; see the log") from error
        if answer.kind is Kind.ERROR:
            self._dismiss(front)
            raise ConfigError(_text(answer.parts[0]))
        return front

    async def _launch(self) -> _Front:
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair()
            our_side, their_side = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(theirs)
            stack.enter_context(their_side)
            answerers: dict[Verb, Answerer] = {
                Verb.RUN: self._run,
                Verb.PUT: self._put,
                Verb.DISCARD: self._discard,
                Verb.USE: self._use,
            }
            link = Link(our_side, answerers)
            await link.open(ours)
            try:
                process = await start_python(_MODULE, (theirs.fileno(), their_side.fileno()), self._config)
            except BaseException:
                link.close()
                raise
        return _Front(process, link, asyncio.Lock())

    async def _begin(self, front: _Front) -> None:
        """Bring a front end up to date; from then on it is told every change."""
        codec = ProgramCodec()
        parts = [part for item in self._preloads for part in (item.digest.encode(), *codec.encode(item.program))]
        async with front.changing:
            await front.link.ask(Verb.BEGIN, self._told.to_json(), Frame(Kind.READY, tuple(parts)))
            self._fronts.add(front)
            for arguments, frame in [*self._programs.changes(), *self._tensors.changes()]:
                await front.link.ask(Verb.CHANGE, arguments, frame)

    async def _keep(self, front: _Front) -> None:
        """Keep one place of the front ends filled."""
        delay_s = 0.0
        while True:
            await front.link.ended.wait()
            code = await front.process.wait()
            _LOGGER.warning("front end ended pid=%d exit_code=%d", front.process.pid, code)
            self._dismiss(front)
            while True:
                await asyncio.sleep(delay_s)
                try:
                    front = await self._start_front()
                except ConfigError as error:
                    _LOGGER.error("front end did not start: %s", error)  # noqa: TRY400  # its own trace stands above
                    delay_s = min(max(2 * delay_s, _FIRST_BACKOFF_S), _LAST_BACKOFF_S)
                else:
                    delay_s = 0.0
                    break

    async def _watch(self) -> None:
        """Keep metrics of front ends at hand, and end those that were suspended for two looks in a row."""
        seen: set[_Front] = set()
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            found = {front for front in self._fronts if front.is_suspended}
            for front in found & seen:
                _LOGGER.warning("front end suspended pid=%d", front.process.pid)
                front.kill()
            seen = found
            if isinstance(self._metrics, PrometheusMetrics):
                await self._look()

    def _dismiss(self, front: _Front) -> None:
        """Forget a front end; what it counted stays."""
        front.kill()
        front.link.close()
        if front in self._fronts:
            self._fronts.remove(front)
            self._ended_samples = keep_totals(add_samples([self._ended_samples, front.samples]))

    async def _stop(self) -> None:
        """Have all front ends drain, and end."""
        await asyncio.gather(*(self._stop_front(front) for front in tuple(self._fronts)))

    async def _stop_front(self, front: _Front) -> None:
        try:
            async with asyncio.timeout(self._config.grace_s + _EXIT_TIMEOUT_S):
                await front.link.ask(Verb.STOP)
        except (TimeoutError, GradwireError) as error:
            _LOGGER.warning("front end did not stop pid=%d: %r", front.process.pid, error)
        front.link.close()
        try:
            async with asyncio.timeout(_EXIT_TIMEOUT_S):
                await front.process.wait()
        except TimeoutError:
            front.kill()
            await front.process.wait()

    # -- what front ends ask ---------------------------------------------------------------------------------------------------

    async def _run(self, arguments: bytes, task: Frame) -> Frame:
        timeout_s, key, cost = decode_run(arguments)
        return await self._sharding.run(task, timeout_s, key=key, cost=cost)

    async def _put(self, arguments: bytes, frame: Frame) -> Frame:
        given = json.loads(arguments)
        await self._store(given).put(given["owner"], given["name"], given["size"], frame)
        return DONE

    async def _discard(self, arguments: bytes, _frame: Frame) -> Frame:
        given = json.loads(arguments)
        found = await self._store(given).discard(given["owner"], given["name"])
        return Frame(Kind.READY, (b"found",) if found else ())

    def _use(self, arguments: bytes, _frame: Frame) -> Frame:
        given = json.loads(arguments)
        for owner, name in given["used"]:
            self._store(given).use(owner, name)
        return DONE

    def _store(self, given: dict[str, Any]) -> KeptStore[Any]:
        return self._programs if given["store"] == "programs" else self._tensors

    async def _publish(self, arguments: bytes, frame: Frame) -> None:
        """Tell a change to all front ends; one that does not take it is ended, for it would serve what is no longer so."""
        await asyncio.gather(*(self._tell(front, arguments, frame) for front in tuple(self._fronts)))

    async def _tell(self, front: _Front, arguments: bytes, frame: Frame) -> None:
        try:
            async with asyncio.timeout(_ACKNOWLEDGE_TIMEOUT_S), front.changing:
                await front.link.ask(Verb.CHANGE, arguments, frame)
        except WorkerLostError:
            return
        except TimeoutError:
            _LOGGER.warning("front end does not answer pid=%d", front.process.pid)
            front.kill()

    # -- metrics ---------------------------------------------------------------------------------------------------------------

    def _collect(self) -> list[bytes]:
        """Return the metrics of all processes; called by the thread that serves them."""
        assert self._loop is not None
        with contextlib.suppress(TimeoutError, RuntimeError):  # or as they were last
            asyncio.run_coroutine_threadsafe(self._look(), self._loop).result(_ACKNOWLEDGE_TIMEOUT_S)
        assert isinstance(self._metrics, PrometheusMetrics)
        return [encode_samples(self._metrics.registry), self._ended_samples, *(front.samples for front in tuple(self._fronts))]

    async def _look(self) -> None:
        await asyncio.gather(*(self._look_at(front) for front in tuple(self._fronts)))

    async def _look_at(self, front: _Front) -> None:
        with contextlib.suppress(GradwireError, TimeoutError):
            async with asyncio.timeout(_ACKNOWLEDGE_TIMEOUT_S):
                (samples,) = (await front.link.ask(Verb.METRICS)).parts
                front.samples = _bytes(samples)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _bytes(part: Part) -> bytes:
    assert isinstance(part, bytes)
    return part


def _text(part: Part) -> str:
    return _bytes(part).decode()
