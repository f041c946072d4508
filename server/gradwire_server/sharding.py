"""What is too large for a worker, done in shards by the workers of a pool.

A worker that is asked for more than it may take answers with the shards that do (`shards`). They are tasks like any other, as many
at a time as there are workers, so all that can happen to a worker or a task is seen to by the pool. Their results are joined by
threads (`joining`). The first shard that fails is the end of all.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradwire_core.cutting import Argument
from gradwire_core.errors import LimitError, OverloadedError
from gradwire_core.types import Array
from gradwire_server.frames import Frame, Kind, Part, Prediction
from gradwire_server.joining import Joining
from gradwire_server.metrics import Metrics
from gradwire_server.segments import Segment, copy_elements
from gradwire_server.shards import Asked, Outline, take
from gradwire_server.tasks import TaskPool

_RETRY_S = 0.05
_IN_CHUNKS = Kind.EVALUATE_IN_CHUNKS


class _ShardError(Exception):
    """Raised when a shard fails.

    Args:
        answer: what its worker answered.
    """

    def __init__(self, answer: Frame) -> None:
        super().__init__(answer.kind)
        self.answer = answer


class Sharding:
    """A pool that also takes what must be done in shards.

    Args:
        pool: whose workers do them.
        width: how many shards of one evaluation run at a time.
        metrics: told of evaluations in shards.
    """

    def __init__(self, pool: TaskPool, width: int, metrics: Metrics) -> None:
        self._pool = pool
        self._width = width
        self._metrics = metrics

    async def run(self, task: Frame, timeout_s: float, *, key: bytes | None = None, cost: Prediction | None = None) -> Frame:
        """Run a task and return the answer; as `WorkerPool.run`, of which this raises what a shard does too."""
        end_s = asyncio.get_running_loop().time() + timeout_s
        answer = await self._pool.run(task, timeout_s, key=key, cost=cost)
        if answer.kind is not Kind.SPLIT:
            return answer
        work = _Work(self._pool, asyncio.Semaphore(self._width), task, _read(answer, task), end_s)
        self._metrics.count_shards(len(work.told.outline.shards))
        try:
            response, segments = await work.run()
        except _ShardError as error:
            return error.answer
        except OSError as error:
            raise _out_of_memory() from error
        finally:
            answer.close()
        taken_s = asyncio.get_running_loop().time() - (end_s - timeout_s)
        parts = (answer.parts[0], response, *answer.parts[1:3], *segments)
        return Frame(Kind.RESULT, parts, timings=answer.timings._replace(run_s=taken_s))


@dataclass(frozen=True, slots=True)
class _Told:
    """What a worker told of an evaluation in shards.

    Attributes:
        name: of its program, on the wire.
        outline: how it is done.
        programs: the stored program of each shard, by number.
        requests: the request of each shard.
        sources: the arrays that are apart.
    """

    name: str
    outline: Outline
    programs: Sequence[Part]
    requests: Sequence[Part]
    sources: dict[int, tuple[Segment, Array]]

    def argument(self, argument: Argument) -> Segment:
        """Return the elements that a shard is given: those of the whole, or a copy of a slice of them."""
        segment, array = self.sources[argument.source]
        return segment if argument.part is None else copy_elements(take(array, argument.part))


def _read(answer: Frame, task: Frame) -> _Told:
    name, _, _, told, *rest = (part for part in answer.parts if not isinstance(part, Segment))
    outline = Outline.from_json(bytes(told))
    segments = tuple(task.segments), tuple(answer.segments)
    sources = {}
    for source, apart in outline.apart.items():
        segment = segments[0 if apart.is_in_task else 1][apart.index]
        sources[source] = segment, np.ndarray(apart.type.shape, apart.type.dtype.numpy, segment.buffer)
    count = outline.program_count
    return _Told(bytes(name).decode(), outline, rest[:count], rest[count:], sources)


class _Work:
    """One evaluation in shards.

    Args:
        pool: whose workers do them.
        slots: bounds how many run at a time.
        task: what was asked for.
        told: how it is done.
        end_s: until when, in the time of the event loop.
    """

    def __init__(self, pool: TaskPool, slots: asyncio.Semaphore, task: Frame, told: _Told, end_s: float) -> None:
        self._pool = pool
        self._slots = slots
        self._request_id = task.parts[0]
        self._end_s = end_s
        self._answered_count = 0
        self.told = told
        self._joining = Joining(told.outline.results, in_chunks=task.kind is _IN_CHUNKS)

    async def run(self) -> tuple[bytes, list[Segment]]:
        """Return the response and the segments of the whole."""
        try:
            async with asyncio.TaskGroup() as group:
                for number, asked in enumerate(self.told.outline.shards):
                    group.create_task(self._run_one(number, asked))
            return await asyncio.to_thread(self._joining.finish, self.told.name)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            self._joining.close()

    async def _run_one(self, number: int, asked: Asked) -> None:
        async with self._slots:
            segments = await self._arguments(asked)
            try:
                answer = await self._ask(number, asked, [segment for segment, _ in segments])
            finally:
                for segment, is_own in segments:
                    if is_own:
                        segment.close()
            self._answered_count += 1
            try:
                if answer.kind is not Kind.RESULT:
                    raise _ShardError(answer)
                await asyncio.to_thread(self._joining.add, number, answer)
            finally:
                if answer.kind is Kind.RESULT:
                    answer.close()

    async def _arguments(self, asked: Asked) -> list[tuple[Segment, bool]]:
        """Return what a shard is given of arrays that are apart, and whether each is its own."""
        found = []
        for argument in asked.arguments:
            is_own = argument.part is not None
            find = functools.partial(self.told.argument, argument)
            found.append((await asyncio.to_thread(find) if is_own else find(), is_own))
        return found

    async def _ask(self, number: int, asked: Asked, segments: Iterable[Segment]) -> Frame:
        """Return the answer of a worker, which is sent the program if it asks for it."""
        task = Frame(Kind.EVALUATE_SHARD, (self._request_id, self.told.requests[number], b"", *segments))
        answer = await self._ask_patiently(task, asked.prediction)
        if answer.kind is not Kind.MISSING:
            return answer
        program = self.told.programs[asked.program]
        return await self._ask_patiently(replace(task, parts=(*task.parts[:2], program, *task.segments)), asked.prediction)

    async def _ask_patiently(self, task: Frame, prediction: Prediction) -> Frame:
        """Return the answer of a worker; once some shard is answered, the others wait for a place rather than be refused."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await self._pool.run(task, self._end_s - loop.time(), cost=prediction)
            except OverloadedError as error:
                if not self._answered_count:
                    raise
                await asyncio.sleep(float(error.metadata.get("retry_after_s", _RETRY_S)))


def _out_of_memory() -> LimitError:
    return LimitError("response: needed memory for the results of all shards, got less; ask for less at once", limit="memory")
