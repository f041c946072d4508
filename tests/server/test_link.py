"""Two processes that ask each other things: answers in any order, what is given up, what is lost."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest

from gradwire_core.errors import InternalError, OverloadedError, WorkerLostError
from gradwire_server.frames import Frame, Kind, Prediction
from gradwire_server.front_process import decode_run, encode_run
from gradwire_server.link import Link, Verb
from gradwire_server.segments import Segment
from tests.server.requests import until


@asynccontextmanager
async def linked(answerers):
    """Two links, of which the second answers."""
    streams = socket.socketpair()
    sides = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    links = [Link(side, given) for side, given in zip(sides, ({}, answerers), strict=True)]
    for link, stream in zip(links, streams, strict=True):
        await link.open(stream)
    try:
        yield links
    finally:
        for link in links:
            link.close()
            await link.ended.wait()


def echo(arguments, frame):
    return Frame(Kind.RESULT, (arguments, *frame.parts), Prediction(1.0, 2))


async def test_an_answer_brings_what_the_question_gave():
    async with linked({Verb.USE: echo}) as (link, _):
        large = bytes(range(256)) * 1024
        with Segment.create(5) as segment:
            segment.buffer[:] = b"hello"
            answer = await link.ask(Verb.USE, b"x", Frame(Kind.EVALUATE, (b"", large, segment)))
        assert answer.kind is Kind.RESULT
        assert answer.prediction == Prediction(1.0, 2)
        assert answer.parts[:3] == (b"x", b"", large)
        assert bytes(answer.parts[3].buffer) == b"hello"


async def test_answers_come_in_any_order():
    gates = [asyncio.Event() for _ in range(3)]

    async def wait(arguments, _frame):
        await gates[arguments[0]].wait()
        return Frame(Kind.READY, (arguments,))

    async with linked({Verb.RUN: wait}) as (link, _):
        asked = [asyncio.create_task(link.ask(Verb.RUN, bytes([number]))) for number in range(3)]
        for number in (2, 0, 1):
            gates[number].set()
            assert (await asked[number]).parts == (bytes([number]),)


async def test_more_large_questions_than_the_kernel_holds_are_all_answered():
    async def measure(_arguments, frame):
        return Frame(Kind.READY, (str(len(frame.parts[0])).encode(),))

    async with linked({Verb.RUN: measure}) as (link, _):
        answers = await asyncio.gather(*(link.ask(Verb.RUN, frame=Frame(Kind.READY, (bytes(70_000),))) for _ in range(400)))
        assert {answer.parts for answer in answers} == {(b"70000",)}


async def test_what_is_raised_is_raised_where_it_was_asked():
    async def refuse(_arguments, _frame):
        raise OverloadedError("queue: full", waiting=3)

    async def fail(_arguments, _frame):
        raise ZeroDivisionError

    async with linked({Verb.RUN: refuse, Verb.PUT: fail}) as (link, _):
        with pytest.raises(OverloadedError, match="queue: full") as refused:
            await link.ask(Verb.RUN)
        assert refused.value.metadata["waiting"] == "3"
        with pytest.raises(InternalError, match="a defect of its own"):
            await link.ask(Verb.PUT)


async def test_a_question_that_is_given_up_is_no_longer_worked_on():
    seen = []

    async def wait(_arguments, _frame):
        seen.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    async with linked({Verb.RUN: wait, Verb.USE: echo}) as (link, _):
        asked = asyncio.create_task(link.ask(Verb.RUN))
        await until(lambda: seen == ["begun"])
        asked.cancel()
        await until(lambda: seen == ["begun", "ended"])
        assert (await link.ask(Verb.USE, b"y")).parts == (b"y",)


async def test_what_is_asked_of_a_side_that_hangs_up_is_lost():
    async def wait(_arguments, _frame):
        await asyncio.Event().wait()

    async with linked({Verb.RUN: wait}) as (link, other):
        asked = asyncio.create_task(link.ask(Verb.RUN))
        await asyncio.sleep(0)
        other.close()
        with pytest.raises(WorkerLostError):
            await asked
        with pytest.raises(WorkerLostError):
            await link.ask(Verb.RUN)


@pytest.mark.parametrize("key", [None, b"", b"key"])
@pytest.mark.parametrize("cost", [None, Prediction(0.5, 2**40, is_stackable=True)])
def test_the_arguments_of_a_task_travel(key, cost):
    assert decode_run(encode_run(2.5, key, cost)) == (2.5, key, cost)
