"""The worker processes: dispatch, deadline, cancel, replace the dead.

A task runs in the coroutine that asked for it: it takes an idle worker, or waits for one in a bounded queue, writes one
frame and reads one. So everything that can end a call ends its task: a deadline or a cancelled call takes a waiting task
out of the queue at once, and kills the worker of a running one, for no Python code in it could be trusted to stop. A
worker that dies is replaced, at once where a spare one is ready, and its task runs again on another, since evaluation is
pure; a task that has ended `task_attempt_count` workers fails alone. Only deaths that a task can be the cause of count: by
a fault, by exiting, by the kernel for lack of memory. A worker that is killed from outside, or suspended, is no task's doing.

    starting --READY--> spare --> idle <--> busy
        |                 |        |         |
        +-----------------+--------+---------+--> dead: replaced by a starting one, later each time it fails to start
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque

from gradwire_core.errors import DeadlineError, OverloadedError, PoisonedTaskError, WorkerLostError
from gradwire_server.config import ConfigError, ServerConfig
from gradwire_server.frames import Frame
from gradwire_server.memory import count_kernel_kills
from gradwire_server.metrics import Metrics
from gradwire_server.process import WorkerDiedError, WorkerProcess

_LOGGER = logging.getLogger(__name__)
_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 2.0
_WATCH_INTERVAL_S = 0.25
_LOSS_COUNT = 16


class WorkerPool:
    """A fixed number of worker processes, and the queue before them.

    Args:
        config: number of workers, bounds of the queue, environment of the processes.
        metrics: told of starts, retries and the length of the queue.

    Attributes:
        suspended_count: how many workers were ended because they were suspended.
    """

    def __init__(self, config: ServerConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._workers: set[WorkerProcess] = set()
        self._spares: list[WorkerProcess] = []
        self._processes: set[WorkerProcess] = set()
        self.suspended_count = 0
        self._watcher: asyncio.Task[None] | None = None
        self._kernel_kills = (count_kernel_kills(),) * 2
        self._idle: list[WorkerProcess] = []
        self._queue: deque[asyncio.Future[WorkerProcess]] = deque()
        self._keepers: list[asyncio.Task[None]] = []
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The ids of the worker processes that take tasks."""
        return [worker.pid for worker in self._workers]

    @property
    def spare_pids(self) -> list[int]:
        """The ids of the worker processes that stand by to replace one."""
        return [worker.pid for worker in self._spares]

    @property
    def queue_length(self) -> int:
        """The number of tasks that wait for a worker."""
        return len(self._queue)

    async def start(self) -> None:
        """Start all workers and wait until each is ready.

        Raises:
            ConfigError: a worker ended, or did not answer, before it was ready.
        """
        started = await asyncio.gather(*(self._try_spawn() for _ in range(self._config.workers)))
        ready = [worker for worker in started if worker is not None]
        for worker in ready:
            self._admit(worker)
        spares = [None] * self._config.spare_workers
        self._keepers = [asyncio.create_task(self._keep(worker)) for worker in (*ready, *spares)]
        self._watcher = asyncio.create_task(self._watch())
        if len(ready) < len(started):
            await self.close()
            raise ConfigError(f"workers: needed {len(started)} to start, got {len(ready)}; what they wrote above says why")

    async def close(self) -> None:
        """End all workers; tasks that still wait fail with WorkerLostError."""
        self._closed = True
        busy = [*self._keepers, self._watcher] if self._watcher is not None else self._keepers
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await asyncio.gather(*(worker.close() for worker in self._processes))
        for workers in (self._workers, self._spares, self._processes, self._idle):
            workers.clear()
        while self._queue:
            _settle(self._queue.popleft(), None)

    async def run(self, task: Frame, timeout_s: float) -> Frame:
        """Run a task on some worker and return the answer.

        Args:
            task: the frame to send; see `frames` for its answers.
            timeout_s: seconds after which waiting or running ends.

        Raises:
            OverloadedError: too many tasks wait already.
            DeadlineError: `timeout_s` passed.
            PoisonedTaskError: the task has ended as many workers as it may.
            WorkerLostError: the pool was closed, or worker after worker was lost to something else.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._run_again(task)
        except TimeoutError:
            raise DeadlineError(
                f"evaluation: needed an answer within {timeout_s:.3g} s, got none; allow more time or ask for less",
                timeout_s=f"{timeout_s:.3g}",
            ) from None

    async def _run_again(self, task: Frame) -> Frame:
        """Run a task until it is answered, or has ended as many workers as it may."""
        ended = lost = 0
        while True:
            try:
                return await self._run_once(task)
            except WorkerDiedError as death:
                is_ended = death.is_by_itself or self._kernel_kills[0] != count_kernel_kills()
            self._metrics.count_task_retry()
            ended, lost = ended + is_ended, lost + (not is_ended)
            if ended >= self._config.task_attempt_count:
                text = f"evaluation: needed a worker that survives it, got {ended} that died; make the request smaller"
                raise PoisonedTaskError(text, worker_count=ended)
            if lost >= _LOSS_COUNT:
                text = f"evaluation: needed a worker that lasts, got {lost} that were killed from outside; repeat the request later"
                raise WorkerLostError(text, worker_count=lost)

    async def _run_once(self, task: Frame) -> Frame:
        worker = await self._acquire()
        try:
            answer = await worker.exchange(task)
        except asyncio.CancelledError:
            worker.stop()
            raise
        worker.has_answered = True
        self._release(worker)
        return answer

    async def _acquire(self) -> WorkerProcess:
        while self._idle:
            worker = self._idle.pop()
            if not worker.has_hung_up:
                return worker
        self._check_room()
        place: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        self._metrics.set_queue_length(len(self._queue))
        try:
            return await place
        except asyncio.CancelledError:
            self._leave_queue(place)
            raise

    def _check_room(self) -> None:
        if self._closed:
            raise _lost()
        if len(self._queue) >= self._config.queue_count:
            raise OverloadedError(
                f"queue: needed a free place, got {len(self._queue)} tasks waiting; retry after a moment", waiting=len(self._queue)
            )

    def _leave_queue(self, place: asyncio.Future[WorkerProcess]) -> None:
        if place.done() and not place.cancelled() and place.exception() is None:
            self._release(place.result())
        else:
            with contextlib.suppress(ValueError):
                self._queue.remove(place)
        self._metrics.set_queue_length(len(self._queue))

    def _release(self, worker: WorkerProcess) -> None:
        """Give a ready worker to the first task that waits, else call it idle; the last to become idle has the warmest caches."""
        while self._queue:
            place = self._queue.popleft()
            self._metrics.set_queue_length(len(self._queue))
            if _settle(place, worker):
                return
        self._idle.append(worker)

    async def _keep(self, worker: WorkerProcess | None) -> None:
        """Keep one place of the pool filled: wait for the end of its worker, then start another."""
        delay_s = 0.0
        while True:
            is_to_blame = True
            if worker is not None:
                is_to_blame = await self._attend(worker)
            delay_s = min(max(2 * delay_s, _FIRST_BACKOFF_S), _LAST_BACKOFF_S) if is_to_blame else 0.0
            await asyncio.sleep(delay_s)
            worker = await self._try_spawn()
            if worker is not None:
                self._admit(worker)

    def _admit(self, worker: WorkerProcess) -> None:
        """Let a ready worker take tasks, or stand by where enough others do."""
        if len(self._workers) < self._config.workers:
            self._workers.add(worker)
            self._release(worker)
        else:
            self._spares.append(worker)

    async def _attend(self, worker: WorkerProcess) -> bool:
        """Wait until a worker ends; tell whether it ended by itself before it answered a single task."""
        code = await worker.process.wait()
        self._dismiss(worker)
        worker.transport.abort()
        _LOGGER.warning("worker ended pid=%d exit_code=%d stopped=%s", worker.pid, code, worker.was_stopped)
        return not (worker.was_stopped or worker.has_answered or worker.was_ended_from_outside)

    def _dismiss(self, worker: WorkerProcess) -> None:
        """Forget a worker that has ended; a spare one takes its place."""
        self._workers.discard(worker)
        self._processes.discard(worker)
        for workers in (self._idle, self._spares):
            if worker in workers:
                workers.remove(worker)
        if self._spares and len(self._workers) < self._config.workers:
            self._admit(self._spares.pop())

    async def _try_spawn(self) -> WorkerProcess | None:
        worker = None
        try:
            async with asyncio.timeout(self._config.worker_start_timeout_s):
                worker = await WorkerProcess.launch(self._config)
                self._processes.add(worker)
                await worker.configure(self._config)
        except (OSError, TimeoutError, WorkerDiedError) as error:
            if worker is not None:
                self._processes.discard(worker)
            _LOGGER.error("worker did not start: %s", str(error) or type(error).__name__)  # noqa: TRY400  # its own trace stands above
            return None
        self._metrics.count_worker_start()
        return worker

    async def _watch(self) -> None:
        """End workers that were suspended for two looks in a row, so that they are replaced and their tasks run again."""
        seen: set[WorkerProcess] = set()
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            self._kernel_kills = (self._kernel_kills[1], count_kernel_kills())
            found = {worker for worker in self._processes if worker.is_suspended}
            for worker in found & seen:
                _LOGGER.warning("worker suspended pid=%d", worker.pid)
                self.suspended_count += 1
                worker.stop()
            seen = found


def _settle(place: asyncio.Future[WorkerProcess], worker: WorkerProcess | None) -> bool:
    """Give a place in the queue its worker, or an error for None; tell whether it still wanted one."""
    if place.done():
        return False
    if worker is None:
        place.set_exception(_lost())
    else:
        place.set_result(worker)
    return True


def _lost() -> WorkerLostError:
    return WorkerLostError("evaluation: needed a worker, got a pool that is closed; repeat the request elsewhere")
