"""Requests that to hand to a worker takes longer than to answer: the front end evaluates them itself.

What a request asks is in its bytes without its elements. Where those are the same as of a request that a worker has answered, so
are program, outputs, types, limits and cost, and the answer is the same but for its elements. So once such requests come again and
again, and were predicted to take no longer than the budget, their program is compiled here, in a thread; from then on a request is
answered if its bytes are the known ones, with elements in between that are read in place. Everything else goes to a worker.

To carry large arrays to a worker and back takes time in proportion to their bytes, which is added to the budget: what adds two
arrays of a MiB is done sooner than it is carried. The event loop is kept from others meanwhile, so a turn of it has a budget too
(`turn.py`): past that, whoever comes next waits until all others had their turn. What runs for long becomes machine code here as it
does in a worker, compiled by another process.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from gradwire_core import engine
from gradwire_core.native.tier import open_tier
from gradwire_core.structure.cost import predict
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.evaluation import decode_output
from gradwire_proto.program import decode_program
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.config import ServerConfig
from gradwire_server.frames import Prediction
from gradwire_server.skeletons import Message, Skeleton, Skeletons, request_skeleton, response_skeleton

_LOGGER = logging.getLogger(__name__)

MESSAGE_BYTES = 2**20 + 2**16
"""Larger requests and answers are not looked at: such travel in chunks."""

CARRIED_S = 4e-10
"""The seconds of a processor that it takes to carry a byte of a large message to a worker, or back: measured."""

_SMALL_BYTES = 64 * 1024  # what is smaller costs the same for any size
_MOST_S = 1.5e-3
_MOST_PEAK_BYTES = 2**24
_WRITTEN_BYTES = 4096  # smaller results are copied once more, which is quicker than to look at them

_HOT_COUNT = 4
_KNOWN_COUNT = 256
_EQUATION_COUNT = 128
_TRIAL_COUNT = 5


class Tiny:
    """What answers requests of one skeleton.

    Args:
        digest: of their program.
        request: their skeleton.
        response: that of their answers.
        executable: what computes these.

    Attributes:
        digest: as given.
        response_bytes: the size of an answer.
    """

    def __init__(self, digest: str, request: Skeleton, response: Skeleton, executable: engine.Executable) -> None:
        self.digest = digest
        self.response_bytes = response.size
        self._pieces = list(response.pieces)
        self._run = executable.run
        types = [*executable.input_types, *(type for seeds in executable.seed_types for type in seeds)]
        parts = [(type.shape, type.dtype.numpy, start) for type, (start, _) in zip(types, request.spans, strict=True)]
        count = len(executable.input_types)
        self._inputs, seeds = parts[:count], iter(parts[count:])
        self._seeds = [[next(seeds) for _ in found] for found in executable.seed_types]

    def answer(self, message: Message) -> bytes:
        """Return the serialized answer to a serialized request that has the skeleton.

        Raises:
            GradwireError: as the executable.
        """
        return b"".join(self.pieces(message))

    def pieces(self, message: Message) -> list[bytes | memoryview]:
        """Return the serialized answer in pieces, in memory of their own; the message is read where it is.

        Raises:
            GradwireError: as the executable.
        """
        inputs = [np.ndarray(shape, dtype, message, start) for shape, dtype, start in self._inputs]
        seeds = [[np.ndarray(shape, dtype, message, start) for shape, dtype, start in found] for found in self._seeds]
        found: list[bytes | memoryview] = []
        pieces = iter(self._pieces)
        for results in self._run(inputs, seeds):
            for result in results:
                assert isinstance(result, np.ndarray)
                small = result.nbytes <= _WRITTEN_BYTES
                found += next(pieces), (result.tobytes() if small else result.reshape(-1).view(np.uint8).data)
        found.append(next(pieces))
        return found


@dataclass(slots=True)
class _Entry:
    """What is known of the requests of one skeleton: how often they came, and what answers them here, if anything does."""

    skeleton: Skeleton
    count: int = 0
    is_decided: bool = False
    tiny: Tiny | None = None


class Inline:
    """What the front end evaluates itself.

    Args:
        config: the budget; 0 seconds for none.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._budget_s = config.inline_budget_s
        self._known: Skeletons[_Entry] = Skeletons(_KNOWN_COUNT)
        has_tier = config.native and config.inline_budget_s
        tier = open_tier(config.cache_folder, config.code_folder_bytes, compiles_here=False) if has_tier else None
        self._executables = engine.ExecutableCache(_KNOWN_COUNT, config.inline_cache_bytes, tier)
        self._thread = ThreadPoolExecutor(1, "inline")
        self._compiling: set[asyncio.Future[None]] = set()

    def find(self, message: Message) -> Tiny | None:
        """Return what answers a serialized EvaluateRequest; None for a worker."""
        entry = self._known.find(message)
        return None if entry is None else entry.tiny

    def learn(self, message: bytes, digest: str, program: bytes, response: bytes, prediction: Prediction | None) -> None:
        """Take note of a request that a worker has answered.

        Args:
            message: the serialized EvaluateRequest, all elements in it.
            digest: of its program.
            program: its program, in a serialized GetProgramResponse.
            response: the serialized EvaluateResponse, all elements in it.
            prediction: what its evaluation was predicted to take.
        """
        if prediction is None or max(len(message), len(response)) > MESSAGE_BYTES:
            return
        if not self._is_quick(prediction.seconds, len(message) + len(response)):
            return
        entry = self._note(message)
        if entry is None or entry.count < _HOT_COUNT or entry.is_decided or self._compiling:
            return
        entry.is_decided = True
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._compile, entry, message, digest, program, response)
        self._compiling.add(work)
        work.add_done_callback(self._compiling.discard)

    async def close(self) -> None:
        """Wait for what is being compiled, and compile nothing more."""
        self._budget_s = 0.0
        await asyncio.gather(*self._compiling, return_exceptions=True)
        self._thread.shutdown()

    def _is_quick(self, predicted_s: float, size: int) -> bool:
        """Tell whether what is predicted to take some time may be quicker than to carry so many bytes; predictions are rough."""
        return predicted_s <= self._budget_s + 2 * self._carried_s(size)

    def _carried_s(self, size: int) -> float:
        """Return how much longer than small messages so many bytes take to be carried to a worker and back, if that is avoided."""
        return CARRIED_S * max(0, size - _SMALL_BYTES) if self._budget_s else 0.0

    def _note(self, message: bytes) -> _Entry | None:
        """Return what is known of requests like one, this one counted; None if it has no skeleton that others could have."""
        entry = self._known.find(message)
        if entry is None:
            skeleton = request_skeleton(message)
            if skeleton is None:
                return None
            entry = _Entry(skeleton)
            self._known.put(skeleton, entry)
        entry.count += 1
        return entry

    def _compile(self, entry: _Entry, message: bytes, digest: str, program: bytes, response: bytes) -> None:
        """Have requests like one answered here, if that takes no longer than the budget."""
        try:
            entry.tiny = self._make(entry.skeleton, message, digest, program, response)
        except Exception:  # a worker goes on answering them
            _LOGGER.exception("inline: not compiled")

    def _make(self, skeleton: Skeleton, message: bytes, digest: str, program: bytes, response: bytes) -> Tiny | None:
        request = pb.EvaluateRequest.FromString(message)
        stored = pb.GetProgramResponse.FromString(program).program
        if request.reproducible or len(stored.equations) > _EQUATION_COUNT:
            return None
        outputs = tuple(decode_output(output)[0] for output in request.outputs)
        executable = self._executables.get(decode_program(stored), outputs)
        answer = response_skeleton(response)
        if answer is None or not _is_plain(executable, skeleton, answer):
            return None
        predicted_s, size = predict(executable.program).seconds, len(message) + len(response)
        if not self._is_quick(predicted_s, size) or executable.plan.peak_bytes > _MOST_PEAK_BYTES:
            return None
        tiny = Tiny(digest, skeleton, answer, executable)
        taken_s = math.inf
        for _ in range(_TRIAL_COUNT):
            began_s = time.thread_time()
            tiny.answer(memoryview(message))
            taken_s = min(taken_s, time.thread_time() - began_s)
        _LOGGER.info("inline: program=%s predicted=%s taken=%s", digest, predicted_s, taken_s)
        allowed_s = max(2 * self._budget_s, min(2 * self._budget_s + self._carried_s(size), _MOST_S))
        return tiny if taken_s <= allowed_s else None


def _is_plain(executable: engine.Executable, request: Skeleton, response: Skeleton) -> bool:
    """Tell whether all elements of a request are read, and all of its answer written, as they are."""
    inputs = [*executable.input_types, *(type for seeds in executable.seed_types for type in seeds)]
    results = executable.program.output_types
    return (
        executable.by_terms is None
        and all(specs is None for specs in executable.specs)
        and all(type.dtype is not Dtype.BOOL for type in inputs)
        and _sizes(inputs) == [end - start for start, end in request.spans]
        and _sizes(results) == [end - start for start, end in response.spans]
    )


def _sizes(types: Sequence[TensorType]) -> list[int]:
    return [type.nbytes for type in types]
