"""The workers: admission, dispatch, deadline, cancel, replace the dead.

A task is admitted by what it is predicted to take: the seconds of work that waits before it, and the bytes of all that waits and
runs. It then waits for a worker (`waiting` says in which order), is sent to it, and is answered. Tasks of one key that wait are
sent together, and evaluated as one where that is faster; nobody waits for others to come. Where a task takes hardly longer than to
ask a worker, those that come in the same turn of the event loop are sent together too, though other workers are idle.

Everything that can end a call ends its task: a deadline or a cancelled call takes a waiting task out at once, and kills the
worker of a running one, for no Python code in it could be trusted to stop; of tasks that run together, the last to be given up
does that. A worker that dies is replaced, at once where a spare one is ready, and its task runs again on another, since
evaluation is pure; a task that has ended `task_attempt_count` workers fails alone. Tasks that ran together run again one by one,
so that none is blamed for another. Only deaths that a task can be the cause of count: by a fault, by exiting, by the kernel for
lack of memory. A worker that is killed from outside, or suspended, is no task's doing.

    starting --READY--> spare --> idle <--> busy
        |                 |        |         |
        +-----------------+--------+---------+--> dead: replaced by a starting one, later each time it fails to start
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gradwire_core.errors import DeadlineError, GradwireError, OverloadedError, PoisonedTaskError, WorkerLostError
from gradwire_server.config import ConfigError, ServerConfig
from gradwire_server.costs import Costs
from gradwire_server.frames import Frame, Kind, Prediction, join_frames, split_frame
from gradwire_server.handles import WorkerDiedError, WorkerHandle, Workers
from gradwire_server.memory import count_kernel_kills
from gradwire_server.metrics import Metrics
from gradwire_server.pressure import Pressure
from gradwire_server.process import LocalWorkers
from gradwire_server.skeletons import Skeletons, request_skeleton
from gradwire_server.waiting import Waiting, WaitingTasks

_LOGGER = logging.getLogger(__name__)
_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 2.0
_WATCH_INTERVAL_S = 0.25
_STOP_AFTER_S = 0.1  # of a task that nobody waits for
_LOSS_COUNT = 16
_SHORT_MEMORY_S = 1.0
_REFUSED_S = 0.003  # much shorter than it takes a queue to have room again
_BATCH_BYTES = 2**22
_BRIEF_S = 2e-4  # not much longer than it takes to ask a worker anything
_EVALUATIONS = (Kind.EVALUATE, Kind.EVALUATE_IN_CHUNKS)
_NAMED_PARTS = 2  # of a task that brings no program
_KEY_COUNT = 4096


@dataclass(eq=False, slots=True)
class _Run:
    """Tasks that a worker is at."""

    worker: WorkerHandle
    items: list[Waiting]
    began_s: float
    is_long: bool = field(init=False)
    expected_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.is_long = any(item.is_long for item in self.items)
        self.expected_s = sum(item.expected.seconds for item in self.items)

    def left_s(self, now_s: float) -> float:
        """Return the seconds that it is expected to last yet: one that is late, as long again as it is late."""
        return abs(self.began_s + self.expected_s - now_s)


class WorkerPool:
    """A fixed number of workers, and the queue before them.

    Args:
        config: number of workers, bounds of the queue, environment of the processes.
        metrics: told of starts, retries and the length of the queue.
        preloads: what every worker compiles before it takes tasks: serialized EvaluateRequests, each beside the path of its file.
        source: where workers come from; None for processes of this machine.

    Attributes:
        suspended_count: how many workers were ended because they were suspended.
    """

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        preloads: Sequence[tuple[str, bytes]] = (),
        source: Workers | None = None,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._preloads = preloads
        self._source = source or LocalWorkers(config)
        self._complaint: ConfigError | None = None
        self._workers: set[WorkerHandle] = set()
        self._spares: list[WorkerHandle] = []
        self._processes: set[WorkerHandle] = set()
        self.suspended_count = 0
        self._watcher: asyncio.Task[None] | None = None
        self._kernel_kills = (count_kernel_kills(),) * 2
        self._idle: list[WorkerHandle] = []
        self._waiting = WaitingTasks()
        self._runs: dict[WorkerHandle, _Run] = {}
        self._recoveries: set[asyncio.Task[None]] = set()
        self._costs = Costs()
        self._pressure = Pressure(config.max_queue_s, config.workers)
        self._keys: Skeletons[bytes] = Skeletons(_KEY_COUNT)
        self._key_numbers = itertools.count()
        self._admitted_bytes = 0
        self._last_short_s = float("-inf")
        self._next_look: asyncio.TimerHandle | None = None
        self._next_dispatch: asyncio.Handle | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._closed = False
        self._told_length = 0

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
        return len(self._waiting)

    async def start(self) -> None:
        """Start all workers and wait until each is ready.

        Raises:
            ConfigError: a worker ended, or did not answer, before it was ready.
        """
        await self._source.start()
        started = await asyncio.gather(*(self._try_spawn() for _ in range(self._config.workers)))
        ready = [worker for worker in started if worker is not None]
        for worker in ready:
            self._admit(worker)
        spares = [None] * self._config.spare_workers
        self._keepers = [asyncio.create_task(self._keep(worker)) for worker in (*ready, *spares)]
        self._watcher = asyncio.create_task(self._watch())
        if len(ready) < len(started):
            await self.close()
            if self._complaint is not None:
                raise self._complaint
            raise ConfigError(f"workers: needed {len(started)} to start, got {len(ready)}; what they wrote above says why")

    async def close(self) -> None:
        """End all workers; tasks that still wait fail with WorkerLostError."""
        self._closed = True
        for handle in (self._next_look, self._next_dispatch):
            if handle is not None:
                handle.cancel()
        busy = [*self._keepers, *self._recoveries, *((self._watcher,) if self._watcher is not None else ())]
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await asyncio.gather(*(worker.close() for worker in self._processes))
        await self._source.close()
        for workers in (self._workers, self._spares, self._processes, self._idle):
            workers.clear()
        for item in (*self._waiting.clear(), *(item for run in self._runs.values() for item in run.items)):
            _fail(item, _lost())
        self._runs.clear()

    async def run(self, task: Frame, timeout_s: float, *, key: bytes | None = None, cost: Prediction | None = None) -> Frame:
        """Run a task on some worker and return the answer.

        Args:
            task: the frame to send; see `frames` for its answers. Its segments stay the caller's.
            timeout_s: seconds after which waiting or running ends.
            key: what tasks that ask the same of other numbers have in common; None to have it found in the task.
            cost: what it is predicted to take, if that is known.

        Raises:
            OverloadedError: too much waits already.
            DeadlineError: `timeout_s` passed.
            PoisonedTaskError: the task has ended as many workers as it may.
            WorkerLostError: the pool was closed, or worker after worker was lost to something else.
        """
        if timeout_s <= 0:
            raise _late(timeout_s)
        item = self._admit_task(task, timeout_s, key or self._find_key(task), cost)
        size = item.expected.peak_bytes
        self._admitted_bytes += size
        try:
            async with asyncio.timeout(timeout_s):
                if item.is_brief and self._idle:
                    self._dispatch_soon()
                else:
                    self._dispatch()
                return await item.answer
        except TimeoutError:
            raise _late(timeout_s) from None
        finally:
            self._admitted_bytes -= size
            if item.answer.cancelled():
                self._give_up(item)

    def _admit_task(self, task: Frame, timeout_s: float, key: bytes | None, cost: Prediction | None) -> Waiting:
        """Have a task wait, if there is room."""
        if self._closed:
            raise _lost()
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        expected = self._costs.expect(key, cost)
        item = Waiting(task, key, expected, now_s, loop.create_future(), is_alone=not expected.is_stackable)
        item.is_brief = expected.is_stackable and expected.seconds <= _BRIEF_S
        self._waiting.queue_up(item)
        if not self._has_worker_for(item):
            self._check_room(item, timeout_s)
        self._check_bytes(item.expected.peak_bytes)
        if not item.is_long:
            self._last_short_s = now_s
        self._waiting.put(item)
        return item

    def _has_worker_for(self, item: Waiting) -> bool:
        """Tell whether a task is sent at once, or with others of this turn of the event loop, so that it needs no room."""
        if self._next_dispatch is not None and not (item.is_brief and len(self._waiting) < self._config.max_batch_count):
            self._dispatch()  # so that nobody counts on the same worker
        return bool(self._idle) and not (item.is_long and not self._may_start_long())

    def _find_key(self, task: Frame) -> bytes | None:
        """Return what tasks that ask the same of other numbers have in common: a number for each skeleton of their messages."""
        if task.kind not in _EVALUATIONS or len(task.parts) != _NAMED_PARTS:
            return None
        message = task.parts[1]
        assert isinstance(message, bytes)
        found = self._keys.find(message)
        if found is None:
            skeleton = request_skeleton(message)
            if skeleton is not None:
                found = b"%d" % next(self._key_numbers)
                self._keys.put(skeleton, found)
        return found

    def _check_room(self, item: Waiting, timeout_s: float) -> None:
        """Check the predicted seconds of work that waits before a task, and the number of tasks that wait.

        No more may wait than leaves it time to be done: what would come too late is told so while its caller can ask elsewhere.
        One for each worker may wait in any case, one for all in a flood: predictions are too rough to refuse what is next.
        """
        count, now_s, task_s = len(self._waiting), item.arrived_s, item.expected.seconds
        if count >= self._config.queue_count:
            self._note_refusal(task_s, now_s)
            text = f"queue: needed a free place, got {count} tasks waiting; retry after a moment"
            raise OverloadedError(text, waiting=count, **self._advice(0.0, now_s))
        if count < self._pressure.spared_count(now_s):
            return
        queued_s = self._waiting.seconds_before(item.due_s) / self._config.workers
        allowed_s = self._pressure.allowed_s(task_s, now_s)
        if queued_s > allowed_s:
            self._note_refusal(task_s, now_s)
        allowed_s = min(allowed_s, max(0.0, timeout_s - task_s))
        if queued_s > allowed_s:
            raise self._too_long(count, queued_s, allowed_s, now_s)

    def _note_refusal(self, task_s: float, now_s: float) -> None:
        """Take note that a task is refused. Where that is when too much comes, what waits too long for that goes too."""
        if not self._pressure.refuse(task_s, now_s):
            return
        workers = self._config.workers
        surplus = self._waiting.beyond(
            self._pressure.spared_count(now_s), lambda item: workers * self._pressure.allowed_s(item.expected.seconds, now_s)
        )
        for item in surplus:
            self._waiting.discard(item)
            allowed_s = self._pressure.allowed_s(item.expected.seconds, now_s)
            _fail(item, self._too_long(len(surplus), self._waiting.seconds_before(item.due_s) / workers, allowed_s, now_s))

    def _too_long(self, count: int, queued_s: float, allowed_s: float, now_s: float) -> OverloadedError:
        text = f"queue: needed at most {allowed_s:.3g} s of work waiting for each worker, got {queued_s:.3g} s; retry later"
        advice = self._advice(queued_s - allowed_s, now_s)
        return OverloadedError(text, waiting=count, allowed=f"{allowed_s:.3g}", given=f"{queued_s:.3g}", **advice)

    def _advice(self, excess_s: float, now_s: float) -> dict[str, str]:
        """Return what one who is refused is told: when to come again, and for how long the like is refused too."""
        soonest_s = excess_s + min((run.left_s(now_s) for run in self._runs.values()), default=0.0)
        retry = {"retry_after_s": f"{self._pressure.retry_s(soonest_s):.3g}"}
        return retry | {"refused_for_s": f"{_REFUSED_S:.3g}"} if self._pressure.is_high(now_s) else retry

    def _check_bytes(self, peak_bytes: int) -> None:
        """Check the bytes of all that waits and runs; one task alone may take what its own limit allows."""
        total, allowed = self._admitted_bytes + peak_bytes, self._config.pool_limit_bytes
        if self._admitted_bytes and total > allowed:
            text = f"pool: needed at most {allowed} predicted bytes in all, got {total}; retry after a moment"
            raise OverloadedError(text, allowed=allowed, given=total)

    def _dispatch_soon(self) -> None:
        """Send what waits once all that came in this turn of the event loop is there, so that what is alike goes together."""
        if self._next_dispatch is None:
            self._next_dispatch = asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Send what waits to workers that are idle."""
        if self._next_dispatch is not None:
            self._next_dispatch.cancel()
            self._next_dispatch = None
        while self._idle and len(self._waiting):
            item = self._waiting.pop(may_be_long=self._waiting.may_have_long and self._may_start_long())
            if item is None:
                self._look_again()
                break
            worker = self._idle.pop()
            if worker.has_hung_up:
                self._waiting.put(item)  # and this one is seen to by its keeper
                continue
            self._send(worker, [item, *self._find_alike(item)])
        self._tell_length()

    def _tell_length(self) -> None:
        """Have metrics tell how many wait, where that is another number than before."""
        count = len(self._waiting)
        if count != self._told_length:
            self._told_length = count
            self._metrics.set_queue_length(count)

    def _find_alike(self, item: Waiting) -> list[Waiting]:
        """Return the tasks that are to be evaluated with one."""
        return self._waiting.pop_alike(item, self._config.max_batch_count - 1, _BATCH_BYTES - item.expected.peak_bytes)

    def _may_start_long(self) -> bool:
        """Tell whether a long task may have a worker: the last of several is kept for short ones while such come."""
        long_count = sum(run.is_long for run in self._runs.values())
        is_last = 0 < long_count >= len(self._workers) - 1
        return not is_last or asyncio.get_running_loop().time() - self._last_short_s > _SHORT_MEMORY_S

    def _look_again(self) -> None:
        """Dispatch once more when no short task has come for long enough."""
        if self._next_look is None:
            loop = asyncio.get_running_loop()
            self._next_look = loop.call_at(self._last_short_s + 1.05 * _SHORT_MEMORY_S, self._look)

    def _look(self) -> None:
        self._next_look = None
        self._dispatch()

    def _send(self, worker: WorkerHandle, items: list[Waiting]) -> None:
        run = self._runs[worker] = _Run(worker, items, asyncio.get_running_loop().time())
        self._metrics.observe_batch(len(items))
        for item in items:
            self._metrics.observe_wait(run.began_s - item.arrived_s)
        task = items[0].task if len(items) == 1 else join_frames([item.task for item in items])
        worker.ask(task, functools.partial(self._hear, run))

    def _hear(self, run: _Run, found: Frame | Exception) -> None:
        """Take what a worker answered."""
        if self._closed:
            return
        if isinstance(found, Frame):
            try:
                answers = [found] if len(run.items) == 1 else split_frame(found)
                if len(answers) != len(run.items):
                    raise ValueError(len(answers))  # noqa: TRY301  # as what cannot be split
            except (ValueError, struct.error) as error:
                found = error
        if isinstance(found, Exception):
            recovery = asyncio.ensure_future(self._recover(run, found))
            self._recoveries.add(recovery)
            recovery.add_done_callback(self._recoveries.discard)
            return
        self._runs.pop(run.worker, None)
        self._learn(run, answers)
        for item, answer in zip(run.items, answers, strict=True):
            if item.answer.done():
                answer.close()
            else:
                item.answer.set_result(_with_wait(answer, run.began_s - item.arrived_s) if self._config.traces else answer)
        run.worker.has_answered = True
        self._release(run.worker)

    def _learn(self, run: _Run, answers: list[Frame]) -> None:
        for item, answer in zip(run.items, answers, strict=True):
            if answer.kind is Kind.RESULT:
                self._costs.learn(item.key, answer.prediction, answer.timings.taken_s)
                if answer.prediction is not None:
                    predicted_s = answer.prediction.seconds
                    self._metrics.observe_evaluation(predicted_s, answer.timings.taken_s, was_cached=answer.was_cached)

    async def _recover(self, run: _Run, error: Exception) -> None:
        """Have the tasks of a worker that died run again."""
        death = await run.worker.explain_death(error)
        self._runs.pop(run.worker, None)
        items = [item for item in run.items if not item.answer.done()]
        for item in items:
            self._metrics.count_task_retry()
            if len(run.items) > 1:
                item.is_alone = True
            else:
                self._blame(item, death)
            if not item.answer.done():
                self._waiting.put(item)
        self._dispatch()

    def _blame(self, item: Waiting, death: WorkerDiedError) -> None:
        """Count the end of a worker for or against the only task that it was at; too many are the end of the task."""
        is_ended = death.is_by_itself or self._kernel_kills[0] != count_kernel_kills()
        item.ended_count, item.lost_count = item.ended_count + is_ended, item.lost_count + (not is_ended)
        if item.ended_count >= self._config.task_attempt_count:
            text = f"evaluation: needed a worker that survives it, got {item.ended_count} that died; make the request smaller"
            _fail(item, PoisonedTaskError(text, worker_count=item.ended_count))
        elif item.lost_count >= _LOSS_COUNT:
            count = item.lost_count
            text = f"evaluation: needed a worker that lasts, got {count} that were killed from outside; repeat the request later"
            _fail(item, WorkerLostError(text, worker_count=count))

    def _give_up(self, item: Waiting) -> None:
        """Stop a task that nobody waits for any more. One that is over in a moment need not cost its worker."""
        self._waiting.discard(item)
        self._tell_length()
        for run in self._runs.values():
            if item in run.items and all(other.answer.done() for other in run.items):
                asyncio.get_running_loop().call_later(_STOP_AFTER_S, self._stop, run)

    def _stop(self, run: _Run) -> None:
        """End the worker of a run that still goes on."""
        if self._runs.get(run.worker) is run:
            run.worker.stop()

    def _release(self, worker: WorkerHandle) -> None:
        """Call a worker idle, and dispatch; the last to become idle has the warmest caches."""
        self._idle.append(worker)
        self._dispatch()

    async def _keep(self, worker: WorkerHandle | None) -> None:
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

    def _admit(self, worker: WorkerHandle) -> None:
        """Let a ready worker take tasks, or stand by where enough others do."""
        if len(self._workers) < self._config.workers:
            self._workers.add(worker)
            self._release(worker)
        else:
            self._spares.append(worker)

    async def _attend(self, worker: WorkerHandle) -> bool:
        """Wait until a worker ends; tell whether it ended by itself before it answered a single task."""
        code = await worker.wait()
        self._dismiss(worker)
        _LOGGER.warning("worker ended pid=%d exit_code=%d stopped=%s", worker.pid, code, worker.was_stopped)
        return not (worker.was_stopped or worker.has_answered or worker.was_ended_from_outside)

    def _dismiss(self, worker: WorkerHandle) -> None:
        """Forget a worker that has ended; a spare one takes its place."""
        self._workers.discard(worker)
        self._processes.discard(worker)
        for workers in (self._idle, self._spares):
            if worker in workers:
                workers.remove(worker)
        if self._spares and len(self._workers) < self._config.workers:
            self._admit(self._spares.pop())

    async def _try_spawn(self) -> WorkerHandle | None:
        worker = None
        try:
            async with asyncio.timeout(self._config.worker_start_timeout_s):
                worker = await self._source.launch()
                self._processes.add(worker)
                await worker.configure(self._config)
                await worker.prepare(self._preloads)
        except ConfigError as error:
            assert worker is not None
            self._complaint = error
            self._processes.discard(worker)
            worker.stop()
            _LOGGER.warning("worker did not start: %s", error)
            return None
        except (OSError, TimeoutError, WorkerDiedError) as error:
            if worker is not None:
                self._processes.discard(worker)
                worker.stop()
            _LOGGER.error("worker did not start: %s", str(error) or type(error).__name__)  # noqa: TRY400  # its own trace stands above
            return None
        self._metrics.count_worker_start()
        return worker

    async def _watch(self) -> None:
        """End workers that were suspended for two looks in a row, so that they are replaced and their tasks run again."""
        seen: set[WorkerHandle] = set()
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            self._kernel_kills = (self._kernel_kills[1], count_kernel_kills())
            found = {worker for worker in self._processes if worker.is_suspended}
            for worker in found & seen:
                _LOGGER.warning("worker suspended pid=%d", worker.pid)
                self.suspended_count += 1
                worker.stop()
            seen = found


def _with_wait(answer: Frame, wait_s: float) -> Frame:
    """Return an answer that tells that its task waited longer than the worker knows."""
    return replace(answer, timings=answer.timings._replace(wait_s=wait_s + answer.timings.wait_s))


def _fail(item: Waiting, error: GradwireError) -> None:
    if not item.answer.done():
        item.answer.set_exception(error)


def _late(timeout_s: float) -> DeadlineError:
    text = f"evaluation: needed an answer within {timeout_s:.3g} s, got none; allow more time or ask for less"
    return DeadlineError(text, timeout_s=f"{timeout_s:.3g}")


def _lost() -> WorkerLostError:
    return WorkerLostError("evaluation: needed a worker, got a pool that is closed; repeat the request elsewhere")
