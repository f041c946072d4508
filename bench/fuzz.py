"""Mutated requests against a real server: none may crash or hang it, or find a defect, and it answers rightly afterwards.

    python bench/fuzz.py --count 200000               # every rpc, streams included
    python bench/fuzz.py --seconds 300                # as long as that takes
    python bench/fuzz.py --replay failures/123.json   # one call again, alone

The same seed sends the same calls. A call that fails the rules is kept in `--failures`, as JSON with its bytes in base64.
"""

from __future__ import annotations

from _measure import THREADS  # isort: skip  # noqa: F401  # sets thread counts before NumPy is imported

import argparse
import asyncio
import base64
import itertools
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from _fuzz_corpus import Case, corpus
from _fuzz_mutate import WEIGHTS, Mutator
from _servers import ANY_SIZE, SERVICE, Running, gradwire, knows
from _verdicts import Progress, Report
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from gradwire_core.structure.structured import StructuredJacobian
from gradwire_proto import joined
from gradwire_proto.evaluation import decode_result
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.config import ServerConfig
from gradwire_server.frames import Frame, Kind
from gradwire_server.worker import Worker

IN_FLIGHT = 16
DEADLINE_S = 30.0
HANG_S = 15.0
DETAILS = "grpc-status-details-bin"
LIMITS = {  # what passes them is over in a moment, so that whatever is not has found a hole in them
    "--max-predicted-s": 1,
    "--max-flop-count": 10**9,
    "--max-peak-bytes": 2**26,
    "--max-element-count": 2**20,
    "--max-equation-count": 2000,
    "--max-transform-count": 4,
    "--max-message-bytes": 2**22,
    "--queue-count": 1024,
    "--stall-timeout-s": 2,
}
OK = "OK"
OWN_ERROR = "Internal error from Core"  # of gRPC here, where a stream ends while something is sent on it: its status is lost
OVERLOADED, AGAIN_S = "UNAVAILABLE/OVERLOADED", 0.1
ENDED_EARLY = "ended early"
FINE = {
    OK,
    ENDED_EARLY,
    *("INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"),
    *(OVERLOADED, "CANCELLED/CANCELLED"),
}
CRASHES = ("POISONED_TASK", "WORKER_LOST")
STREAMS = ("EvaluateStream", "CreateTensor")
HANG = "hang"
_JOINED = ((joined.KEY, str(joined.MOST_COUNT)),)
JUNK_COUNT = 200
MOST_SUSPECTS = 100


@dataclass(frozen=True)
class Outcome:
    """What came of a call: the statuses it had, as CODE or CODE/REASON, and the seconds it took."""

    statuses: tuple[str, ...]
    seconds: float

    @property
    def failure(self) -> str:
        """What rule it broke; empty for none."""
        if self.seconds > HANG_S:
            return HANG
        for status in self.statuses:
            if status.partition("/")[2] in CRASHES:
                return "crash"
            if status not in FINE and status.partition("/")[0] not in FINE:
                return "internal" if status.startswith("INTERNAL") else "odd status"
        return ""


class Caller:
    """Sends serialized messages to any rpc of a server."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._unary = {rpc: channel.unary_unary(SERVICE + rpc) for rpc in WEIGHTS if rpc not in STREAMS}
        self._create_tensor = channel.stream_unary(SERVICE + "CreateTensor")
        self._session = channel.stream_stream(SERVICE + "EvaluateStream")

    async def call(self, rpc: str, messages: Sequence[bytes]) -> tuple[Outcome, list[bytes]]:
        """Return what came of a call, and its answers."""
        began_s = time.monotonic()
        answers: list[bytes] = []
        statuses: list[str] = []
        try:
            if rpc == "EvaluateStream":
                answers += [answer async for answer in self._session(_each(messages), timeout=DEADLINE_S, metadata=_JOINED)]
                statuses += map(_status_of, _parts(answers))
            elif rpc == "CreateTensor":
                answers.append(await self._create_tensor(_each(messages), timeout=DEADLINE_S))
            else:
                answers.append(await self._unary[rpc](messages[0] if messages else b"", timeout=DEADLINE_S))
        except grpc.aio.AioRpcError as error:
            statuses.append(_end_of(error))
        return Outcome(tuple(statuses) or (OK,), time.monotonic() - began_s), answers


async def _each(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def _parts(answers: Sequence[bytes]) -> Iterator[pb.EvaluateStreamResponse]:
    """Yield the messages of a session, those that were joined one by one."""
    for answer in map(pb.EvaluateStreamResponse.FromString, answers):
        yield from answer.joined or (answer,)


def _end_of(error: grpc.aio.AioRpcError) -> str:
    """Return the status that a call ended with."""
    if (error.details() or "").startswith(OWN_ERROR):
        return ENDED_EARLY
    return _name(error.code().name, dict(error.trailing_metadata() or ()).get(DETAILS))


def _status_of(answer: pb.EvaluateStreamResponse) -> str:
    if answer.WhichOneof("kind") != "error":
        return OK
    code = next(item.name for item in grpc.StatusCode if item.value[0] == answer.error.code)
    return _name(code, Status(details=answer.error.details).SerializeToString())


def _name(code: str, details: bytes | None) -> str:
    info = ErrorInfo()
    for detail in Status.FromString(details).details if details else ():
        if detail.Unpack(info):
            return f"{code}/{info.reason}"
    return code


class References:
    """The right answers of the valid evaluations: those of a worker in this process."""

    def __init__(self, cases: Sequence[Case]) -> None:
        worker = Worker(ServerConfig())
        self._pairs: list[tuple[bytes, list[object]]] = []
        for case in cases:
            if case.rpc == "Evaluate":
                message = case.messages[0].SerializeToString()
                answer = worker.answer(Frame(Kind.EVALUATE, (b"", message)))
                if answer.kind is Kind.RESULT:
                    self._pairs.append((message, _results(bytes(answer.parts[1]))))

    def __len__(self) -> int:
        return len(self._pairs)

    async def count_wrong(self, caller: Caller, places: Sequence[int] | None = None) -> int:
        """Ask a server for evaluations, all unless some are named, and return how many it does not answer rightly."""
        chosen = self._pairs if places is None else [self._pairs[place] for place in places]
        wrong = 0
        for group in range(0, len(chosen), IN_FLIGHT):
            part = chosen[group : group + IN_FLIGHT]
            found = await asyncio.gather(*[_ask(caller, message) for message, _ in part])
            for (_, answers), (_, expected) in zip(found, part, strict=True):
                wrong += not (answers and _agree(_results(answers[0]), expected))
        return wrong


async def _ask(caller: Caller, message: bytes) -> tuple[Outcome, list[bytes]]:
    """Ask for an evaluation, again where the server is told to be overloaded."""
    while True:
        outcome, answers = await caller.call("Evaluate", [message])
        if outcome.statuses != (OVERLOADED,):
            return outcome, answers
        await asyncio.sleep(AGAIN_S)


def _results(response: bytes) -> list[object]:
    answer = pb.EvaluateResponse.FromString(response)
    return [decode_result(result) for output in answer.results for result in output.results]


def _agree(found: Sequence[object], expected: Sequence[object]) -> bool:
    return len(found) == len(expected) and all(
        np.allclose(_dense(one), _dense(other), rtol=1e-6, atol=1e-9, equal_nan=True)
        for one, other in zip(found, expected, strict=True)
    )


def _dense(result: object) -> np.ndarray:
    if isinstance(result, StructuredJacobian):
        return result.todense()
    return result if isinstance(result, np.ndarray) else result.toarray()


class Fuzzer:
    """Sends mutated calls, some in flight at a time, and keeps those that break the rules."""

    def __init__(self, mutator: Mutator, caller: Caller, failures: Path) -> None:
        self._mutator = mutator
        self._caller = caller
        self._folder = failures
        self.count = 0
        self.message_count = 0
        self.failures: Counter[str] = Counter()
        self.suspects: list[int] = []
        self.statuses: dict[str, Counter[str]] = {}
        self.slowest: tuple[float, int] = (0.0, -1)

    async def send(self, numbers: Iterator[int], progress: Progress) -> None:
        """Send the calls of some numbers."""
        for number in numbers:
            rpc, messages, origin = self._mutator.call(number)
            outcome, _ = await self._caller.call(rpc, messages)
            self.count += 1
            self.message_count += max(1, len(messages))
            self.statuses.setdefault(rpc, Counter()).update(outcome.statuses)
            self.slowest = max(self.slowest, (outcome.seconds, number))
            if outcome.failure == HANG:
                self.suspects.append(number)
            elif outcome.failure:
                self._keep(number, rpc, messages, origin, outcome)
            progress.tell(f"{self.count} calls, {sum(self.failures.values())} broke a rule, slowest {self.slowest[0]:.2f} s")

    async def confirm(self) -> None:
        """Send again, each alone, what took long: it may have waited behind others, on a machine that has other work."""
        for number in self.suspects[:MOST_SUSPECTS]:
            rpc, messages, origin = self._mutator.call(number)
            outcome, _ = await self._caller.call(rpc, messages)
            if outcome.failure:
                self._keep(number, rpc, messages, origin, outcome)

    def _keep(self, number: int, rpc: str, messages: Sequence[bytes], origin: str, outcome: Outcome) -> None:
        self.failures[outcome.failure] += 1
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{number}.json"
        contents = [base64.b64encode(message).decode() for message in messages]
        kept = {"rpc": rpc, "failure": outcome.failure, "statuses": outcome.statuses, "seconds": outcome.seconds, "origin": origin}
        path.write_text(json.dumps(kept | {"messages": contents}, indent=1) + "\n")
        print(f"{outcome.failure}: {rpc} {outcome.statuses} {outcome.seconds:.2f} s, {origin[:200]} -> {path}", flush=True)


def numbers(first: int, count: int | None, seconds: float | None) -> Iterator[int]:
    """Yield numbers, so many or for so long."""
    end_s = time.monotonic() + seconds if seconds else float("inf")
    found = itertools.count(first) if count is None else range(first, first + count)
    return itertools.takewhile(lambda _: time.monotonic() < end_s, iter(found))


def send_junk(address: str, count: int) -> None:
    """Open connections that bring anything but HTTP/2, or break off within it."""
    rng = random.Random(0)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    host, _, port = address.rpartition(":")
    for _ in range(count):
        with socket.create_connection((host, int(port)), timeout=HANG_S) as connection:
            begin = rng.choice((b"", preface, preface[:9], preface + b"\0\0\0\4\0\0\0\0\0"))
            try:
                connection.sendall(begin + rng.randbytes(rng.choice((0, 1, 9, 100, 5000))))
            except OSError:
                continue  # it hung up first, as it may


async def fuzz(server: Running, chosen: argparse.Namespace, report: Report) -> None:
    """Fuzz a server that runs, and see what became of it."""
    cases = corpus()
    references = References(cases)
    progress = Progress()
    async with grpc.aio.insecure_channel(server.address, options=ANY_SIZE) as channel:
        caller = Caller(channel)
        wrong_before = await references.count_wrong(caller)
        fuzzer = Fuzzer(Mutator(cases, chosen.seed, chosen.rpcs), caller, chosen.failures)
        shared = numbers(chosen.first, chosen.count, chosen.seconds)
        await asyncio.gather(*[fuzzer.send(shared, progress) for _ in range(IN_FLIGHT)])
        await asyncio.to_thread(send_junk, server.address, JUNK_COUNT)
        await fuzzer.confirm()
        wrong_after = await references.count_wrong(caller)
        retries, starts = (server.metric(f"gradwire_{name}_total") for name in ("task_retries", "worker_starts"))
    report.figures |= {
        "seed": chosen.seed,
        "calls": fuzzer.count,
        "messages": fuzzer.message_count,
        "slowest_s": fuzzer.slowest[0],
        "slowest_number": fuzzer.slowest[1],
        "slow_among_others": len(fuzzer.suspects),
        "worker_starts": starts,  # a request that is cancelled while it runs takes its worker with it
        "statuses": {rpc: dict(found.most_common()) for rpc, found in sorted(fuzzer.statuses.items())},
    }
    for rpc, found in sorted(fuzzer.statuses.items()):
        shown = ", ".join(f"{status} {count}" for status, count in found.most_common(7))
        print(f"  {rpc:16} {shown}")
    print(f"  {fuzzer.count} calls of {fuzzer.message_count} messages; the slowest took {fuzzer.slowest[0]:.2f} s")
    if chosen.count is not None and not chosen.seconds:
        report.at_least("mutated calls", fuzzer.count, chosen.count)
    report.at_most("crashes: tasks that ended workers, or ran again as one had died", max(fuzzer.failures["crash"], retries), 0)
    report.at_most(f"hangs, of {len(fuzzer.suspects)} that took long among others", fuzzer.failures[HANG], 0)
    report.at_most("INTERNAL", fuzzer.failures["internal"], 0)
    report.at_most("statuses that should not be", fuzzer.failures["odd status"], 0)
    unreached = [rpc for rpc in chosen.rpcs if not any(OK in status for status in fuzzer.statuses.get(rpc, ()))]
    report.at_most(f"rpcs that never succeeded ({', '.join(unreached) or 'none'})", len(unreached), 0)
    report.at_most(f"wrong among {len(references)} valid requests before", wrong_before, 0)
    report.at_most(f"wrong among {len(references)} valid requests afterwards", wrong_after, 0)


async def replay(server: Running, kept: dict[str, Any], report: Report) -> None:
    """Send a call that was kept once more."""
    async with grpc.aio.insecure_channel(server.address, options=ANY_SIZE) as channel:
        outcome, answers = await Caller(channel).call(kept["rpc"], [base64.b64decode(text) for text in kept["messages"]])
    print(f"{kept['rpc']} {outcome.statuses} in {outcome.seconds:.2f} s, {len(answers)} answers; it was {kept['statuses']}")
    report.at_most("rules broken", int(bool(outcome.failure)), 0)


def main() -> int:
    parser = argparse.ArgumentParser(description="mutated requests against a real server")
    parser.add_argument("--count", type=int, help="the number of mutated calls (default: 20000, unless --seconds is given)")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    parser.add_argument("--rpcs", nargs="+", choices=WEIGHTS, default=list(WEIGHTS), help="the rpcs to call (default: all)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first call, to go on where another run ended")
    parser.add_argument("--failures", type=Path, default=Path("failures"), help="folder for calls that broke a rule")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="send a kept call once more, and nothing else")
    parser.add_argument("--no-inline", action="store_true", help="switch the inline path of the server off")
    parser.add_argument("--front-ends", type=int, default=1, help="number of front-end processes of the server (default: 1)")
    parser.add_argument("--show-errors", action="store_true", help="show what the server logged")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args()
    if chosen.count is None and chosen.seconds is None:
        chosen.count = 20_000
    flags = [str(item) for pair in LIMITS.items() for item in pair]
    if chosen.no_inline and knows("--inline-budget-s"):
        flags += ["--inline-budget-s", "0"]
    if chosen.front_ends > 1:
        flags += ["--front-ends", str(chosen.front_ends)]
    report = Report("fuzz")
    with gradwire("--workers", "2", *flags, show_errors=chosen.show_errors or bool(chosen.replay)) as server:
        asyncio.run(
            replay(server, json.loads(chosen.replay.read_text()), report) if chosen.replay else fuzz(server, chosen, report)
        )
        report.at_most("the server's process ended", int(server.popen.poll() is not None), 0)
    return report.finish(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
