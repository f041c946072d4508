"""Workers that are actors of a Ray cluster: the pool is the same, and only here is Ray imported.

    pool --> RayHandle --call--> RayWorker in an actor, on some node

What a call brings that is large is put into the object store once, however many workers are given it. An actor is never
restarted by Ray: the pool replaces it, as it does a process. That a node is lost is no task's doing; that a process ended on a
node that lives counts as its task's, for nobody tells what ended it. Ray blocks, so threads call it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from typing import Any, TypeVar

import ray
import ray.exceptions

from gradwire_core.errors import OverloadedError
from gradwire_proto.status import encode_status
from gradwire_server.capabilities import package_version
from gradwire_server.channel import SMALL_BYTES
from gradwire_server.config import ConfigError, ServerConfig, split_address, worker_variables
from gradwire_server.frames import Frame, Kind, Part
from gradwire_server.handles import Listener, WorkerDiedError, exchange, prepare
from gradwire_server.metrics import Metrics
from gradwire_server.pool import WorkerPool
from gradwire_server.ray_worker import RayWorker, carry, mark_parts, receive_answer
from gradwire_server.segments import Segment

_LOGGER = logging.getLogger(__name__)
_NAMESPACE = "gradwire"
_LIFE = "life"
_CLOSE_TIMEOUT_S = 5.0
_REACH_TIMEOUT_S = 5.0
_THREADS_A_WORKER = 3  # one that waits for an answer, one that starts or ends it, one to spare

R = TypeVar("R")


class RayPool(WorkerPool):
    """A pool whose workers are actors of a Ray cluster.

    Args:
        config: all settings.
        metrics: told what any pool tells.
        preloads: as for `WorkerPool`.
    """

    def __init__(self, config: ServerConfig, metrics: Metrics, preloads: Sequence[tuple[str, bytes]] = ()) -> None:
        super().__init__(config, metrics, preloads, RayWorkers(config))


class RayWorkers:
    """Starts actors; the connection to Ray is that of this process.

    Args:
        config: all settings.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        count = _THREADS_A_WORKER * (config.workers + config.spare_workers)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="gradwire-ray")
        self._references: weakref.WeakKeyDictionary[Segment, Any] = weakref.WeakKeyDictionary()
        self._putting = threading.Lock()
        self._is_connected = False

    async def start(self) -> None:
        """Connect to the cluster.

        Raises:
            ConfigError: there is none at the address.
        """
        address = self._config.ray_address
        connecting: Future[None] = Future()
        threading.Thread(target=_connect, args=(address, connecting), daemon=True).start()  # which may never end
        try:
            async with asyncio.timeout(self._config.worker_start_timeout_s):
                await asyncio.wrap_future(connecting)
        except (OSError, RuntimeError, ValueError, AssertionError, TimeoutError, ray.exceptions.RayError) as error:
            _LOGGER.warning("no Ray: %s", error)
            text = f"ray_address: needed a Ray cluster that this machine is a node of, got none at {address}; run `ray start` first"
            raise ConfigError(text) from error
        self._is_connected = True

    async def launch(self) -> RayHandle:
        """Start an actor, on the node that has the fewest, as soon as one has room."""
        return await self.call(self._launch, asyncio.get_running_loop())

    def _launch(self, loop: asyncio.AbstractEventLoop) -> RayHandle:
        options = {
            "num_cpus": self._config.worker_threads,
            "max_restarts": 0,
            "max_task_retries": 0,
            "concurrency_groups": {_LIFE: 1},
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": worker_variables(self._config)},
        }
        return RayHandle(ray.remote(**options)(RayWorker).remote(), self, loop)

    async def close(self) -> None:
        """Let go of the cluster."""
        if self._is_connected:
            await self.call(ray.shutdown)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def call(self, function: Callable[..., R], *arguments: Any) -> R:
        """Call a function that blocks, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def submit(self, function: Callable[..., R], *arguments: Any) -> Future[R]:
        """Have a function called by a thread."""
        return self._threads.submit(function, *arguments)

    def refer(self, part: Part) -> Any:
        """Return a part as it is carried, or a reference to where all workers find it; a segment is put there once."""
        if not isinstance(part, Segment) or part.size <= SMALL_BYTES:
            return carry(part)
        with self._putting:
            found = self._references.get(part)
            if found is None:
                found = self._references[part] = ray.put(carry(part))
        return found


def _connect(address: str, connected: Future[None]) -> None:
    """Connect this process to a cluster; not from its main thread, whose signals are not Ray's to handle."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if address != "auto":  # Ray asks for ever where nobody answers
            with socket.create_connection(split_address("ray_address", address), _REACH_TIMEOUT_S):
                pass
        ray.init(address=address, namespace=_NAMESPACE, log_to_driver=False, configure_logging=False)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is told
        found: Exception | None = error
    else:
        found = None
    with contextlib.suppress(InvalidStateError):  # nobody waits any more
        if found is None:
            connected.set_result(None)
        else:
            connected.set_exception(found)


class RayHandle:
    """One actor.

    Args:
        actor: the actor, which may be about to start.
        source: whose threads call it.
        loop: the event loop of the pool.
    """

    def __init__(self, actor: Any, source: RayWorkers, loop: asyncio.AbstractEventLoop) -> None:
        self._actor = actor
        self._source = source
        self._loop = loop
        self._ended = asyncio.Event()
        self._node = ""
        self.pid = 0
        self.has_answered = False
        self.was_stopped = False
        self.was_ended_from_outside = False
        self._life = actor.live.options(concurrency_group=_LIFE).remote().future()
        self._life.add_done_callback(lambda _: self._tell(self._ended.set))

    @property
    def has_hung_up(self) -> bool:
        """Whether it can be asked nothing more."""
        return self._ended.is_set()

    @property
    def is_suspended(self) -> bool:
        """Never: nobody sees that from another machine."""
        return False

    async def configure(self, config: ServerConfig) -> None:
        """Tell it the settings and wait until it is ready.

        Raises:
            WorkerDiedError: it ended before it was ready.
            ConfigError: it runs another version.
        """
        try:
            self.pid, version, self._node = await self._source.call(self._configure, config.to_json())
        except ray.exceptions.RayError as error:
            _LOGGER.warning("actor did not start: %s", error)
            raise await self.explain_death(error) from error
        if version != package_version():
            raise ConfigError(f"ray: needed gradwire {package_version()} on every node, got {version}; install the same everywhere")

    def _configure(self, settings: bytes) -> tuple[int, str, str]:
        pid, version = ray.get(self._actor.configure.remote(settings))
        return pid, version, ray.get(self._actor.node.remote())

    async def prepare(self, preloads: Sequence[tuple[str, bytes]]) -> None:
        """Have it compile the programs of files; see `handles.prepare`."""
        await prepare(self, preloads)

    async def exchange(self, task: Frame) -> Frame:
        """Send a frame and return the answer; see `handles.exchange`."""
        return await exchange(self, task)

    def ask(self, task: Frame, listener: Listener) -> None:
        """Send a frame, and have its answer given to a function, or the error that there will be none for."""
        self._source.submit(self._exchange, task, listener)

    def _exchange(self, task: Frame, listener: Listener) -> None:
        found: Frame | Exception
        try:
            found = self._ask(task)
        except Exception as error:  # noqa: BLE001  # whatever it is, the pool is told
            found = error
        self._tell(listener, found)

    def _ask(self, task: Frame) -> Frame:
        try:
            parts = list(map(self._source.refer, task.parts))
        except ray.exceptions.RayError as error:
            _LOGGER.warning("object store: %s", error)
            text = "object store: needed room for what the request brings, got none; retry after a moment"
            return Frame(Kind.ERROR, (encode_status(OverloadedError(text)).SerializeToString(),))
        found = ray.get(self._actor.answer.remote(int(task.kind), mark_parts(task.parts), *parts))
        return receive_answer(found, in_place=task.kind is Kind.EVALUATE_SHARD)

    def _tell(self, function: Callable[..., object], *arguments: object) -> None:
        """Have the event loop call a function, if there still is one."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    async def explain_death(self, error: Exception) -> WorkerDiedError:
        """Return why it did not answer; it has ended, or will at once."""
        self._kill()
        is_by_itself = isinstance(error, (ValueError, struct.error, ray.exceptions.RayTaskError))
        if isinstance(error, ray.exceptions.RayActorError) and not self.was_stopped:  # died, or is said to be unavailable meanwhile
            is_by_itself = await self._source.call(_is_alive, self._node)
        self.was_ended_from_outside = not is_by_itself
        return WorkerDiedError(is_by_itself=is_by_itself)

    async def wait(self) -> int:
        """Wait until it has ended; return -1, for nobody tells its exit code."""
        await self._ended.wait()
        self._kill()  # what has been lost may not have ended
        return -1

    def stop(self) -> None:
        """End it at once, on purpose: it is not to blame for it."""
        self.was_stopped = True
        self._kill()

    def _kill(self) -> None:
        self._source.submit(ray.kill, self._actor)

    async def close(self) -> None:
        """End it."""
        self.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._ended.wait()


def _is_alive(node: str) -> bool:
    """Tell whether a node is part of the cluster."""
    return any(found["NodeID"] == node and found["Alive"] for found in ray.nodes())
