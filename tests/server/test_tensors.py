"""Tensors that callers store: what may be sent, in which parts, who sees it, who loses it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwire_core.errors import ArgumentError, DeadlineError, GradwireError, LimitError, NotFoundError, OverloadedError, ShapeError
from gradwire_proto.tensor import decode_tensor, encode_name, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import tensor_pb2
from gradwire_server.calls import Call
from gradwire_server.config import ServerConfig
from gradwire_server.store import LocalStore
from gradwire_server.stores import make_tensors
from gradwire_server.tensors import TensorService, TensorStore, Uploads
from tests.server.requests import until

NAME = "tensors/" + "0" * 64


def make(**settings):
    """A store, and its handlers."""
    config = ServerConfig(**settings)
    store = TensorStore(config, LocalStore(make_tensors(config), lambda count, size: None))
    return store, TensorService(config, store)


def parts(array, *cuts):
    """The messages that bring an array, cut at some bytes."""
    message = encode_tensor(array)
    data = message.data
    places = [0, *cuts, len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    first = pb.CreateTensorRequest(tensor=tensor_pb2.Tensor(dtype=message.dtype, shape=message.shape, data=pieces[0]))
    return [first, *(pb.CreateTensorRequest(data=piece) for piece in pieces[1:])]


def reading(messages, last=None):
    """What reads some messages, then what `last` gives."""
    waiting = iter([item if isinstance(item, bytes) else item.SerializeToString() for item in messages])

    async def read():
        for message in waiting:
            return message
        return None if last is None else await last()

    return read


async def create(service, messages, identity="alice", timeout_s=30.0, last=None):
    call = Call("r", timeout_s, identity)
    return pb.CreateTensorResponse.FromString(await service.create_tensor(reading(messages, last), call)).name


def held(store, array, identity="alice"):
    """What the store has of an array."""
    named = encode_name(array)
    found = store.get(identity, named.name)
    return None if found is None else decode_tensor(named, "x", found.segment.buffer)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 200_000 * 8), max_size=5).map(sorted))
def test_a_tensor_arrives_whatever_it_is_cut_into(cuts):
    array = np.arange(200_000.0)

    async def run():
        store, service = make()
        name = await create(service, parts(array, *cuts))
        assert name == encode_name(array).name
        np.testing.assert_array_equal(held(store, array), array)

    asyncio.run(run())


@pytest.mark.parametrize("array", [np.ones(()), np.ones((0, 3)), np.array([True, False]), np.ones((2, 3), np.complex64)], ids=str)
async def test_tensors_of_any_type_are_stored(array):
    store, service = make()
    await create(service, parts(array))
    np.testing.assert_array_equal(held(store, array), array)
    assert store.get("alice", encode_name(array).name).type.shape == array.shape


def is_open(descriptor):
    return Path(f"/proc/self/fd/{descriptor}").exists()


WHOLE = np.arange(4.0)
NAMED = pb.CreateTensorRequest(tensor=encode_name(WHOLE))
MALFORMED = {
    "no messages": ([], ArgumentError, "needed a tensor in the first message, got none"),
    "no tensor": ([pb.CreateTensorRequest(data=b"x")], ArgumentError, "needed a tensor in the first message, got none"),
    "too few bytes": (parts(WHOLE, 8)[:1], ArgumentError, "tensor: needed 32 bytes for float64[4], got 8"),
    "too many bytes": (
        [*parts(WHOLE), pb.CreateTensorRequest(data=b"x")],
        ArgumentError,
        "32 bytes for float64[4], got more",
    ),
    "two tensors": ([*parts(WHOLE), *parts(WHOLE)], ArgumentError, "needed one in the first message alone"),
    "a name": ([NAMED], ArgumentError, "unset `name`"),
    "no dtype": ([pb.CreateTensorRequest(tensor={"shape": [2]})], GradwireError, "tensor: needed a dtype"),
    "a negative length": ([pb.CreateTensorRequest(tensor={"dtype": 1, "shape": [-1]})], ShapeError, "lengths of 0 or more"),
    "a bool of 2": (
        [pb.CreateTensorRequest(tensor={"dtype": 7, "shape": [1], "data": b"\2"})],
        ArgumentError,
        "needed a bool as a byte 0 or 1, got 2",
    ),
    "garbage": ([b"\xff\xff"], ArgumentError, "needed a well-formed message"),
    "an unknown field": ([parts(WHOLE)[0].SerializeToString() + b"\xf8\x07\x01"], ArgumentError, "unknown field 127"),
    "an unknown field later": ([*parts(WHOLE, 8)[:1], b"\xf8\x07\x01"], ArgumentError, "unknown field 127"),
}


@pytest.mark.parametrize(("messages", "kind", "text"), MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_tensor_is_refused_and_leaves_nothing(messages, kind, text):
    store, service = make()
    with pytest.raises(kind) as refused:
        await create(service, messages)
    assert text in refused.value.message
    assert held(store, WHOLE) is None
    assert not service._uploads._bytes


@pytest.mark.parametrize(
    ("tensor", "settings", "limit"),
    [
        ({"dtype": 1, "shape": [10**17]}, {}, "element_count"),
        ({"dtype": 1, "shape": [1] * 60}, {}, "axis_count"),
        ({"dtype": 1, "shape": [2**28]}, {}, "tensor_store_bytes"),
        ({"dtype": 1, "shape": [1000]}, {"max_identity_tensor_bytes": 7000}, "identity_tensor_bytes"),
    ],
)
async def test_a_type_past_a_limit_is_refused_before_any_memory_is_taken(tensor, settings, limit, monkeypatch):
    monkeypatch.setattr(os, "memfd_create", lambda *_: pytest.fail("memory was taken"))
    _, service = make(**settings)
    with pytest.raises(LimitError) as refused:
        await create(service, [pb.CreateTensorRequest(tensor=tensor)])
    assert refused.value.metadata["limit"] == limit
    assert refused.value.metadata["given"]


async def test_a_stream_that_stalls_ends():
    _, service = make(stall_timeout_s=0.01)
    for messages in ([], parts(WHOLE, 8)[:1]):
        with pytest.raises(DeadlineError, match=r"needed the next of its elements within 0\.01 s"):
            await create(service, messages, last=asyncio.Event().wait)
    with pytest.raises(DeadlineError, match=r"needed all of its elements within 0\.001 s"):
        await create(make()[1], parts(WHOLE, 8)[:1], timeout_s=0.001, last=asyncio.Event().wait)
    assert not service._uploads._bytes


async def test_tensors_on_their_way_are_bounded_and_given_back():
    _, service = make(tensor_store_bytes=1000, max_identity_tensor_bytes=600)
    block = encode_tensor(np.ones(50))
    begun = pb.CreateTensorRequest(tensor={"dtype": 1, "shape": [60], "data": block.data})
    waiting = asyncio.Event()
    running = [asyncio.create_task(create(service, [begun], who, last=waiting.wait)) for who in ("alice", "bob")]
    await until(lambda: len(service._uploads._bytes) == 2)
    for who, limit in (("alice", "identity_tensor_bytes"), ("eve", "tensor_store_bytes")):
        with pytest.raises(OverloadedError) as refused:
            await create(service, [begun], who)
        assert refused.value.metadata["limit"] == limit
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert not service._uploads._bytes


async def test_an_identity_sees_its_own_and_loses_its_own():
    size = 100_000
    first, second, third = (np.full(size // 8, number) for number in (1.0, 2.0, 3.0))
    store, service = make(tensor_store_bytes=10 * size, max_identity_tensor_bytes=2 * size)
    await create(service, parts(first))
    assert held(store, first, "bob") is None
    for array in (second, third):
        await create(service, parts(array))
        await create(service, parts(array), "bob")
    assert held(store, first) is None
    assert [held(store, array, who) is not None for who in ("alice", "bob") for array in (second, third)] == [True] * 4


async def test_shared_tensors_are_seen_by_all():
    store, service = make(shared_tensors=True)
    await create(service, parts(WHOLE))
    assert held(store, WHOLE, "bob") is not None


async def test_a_tensor_is_deleted_but_lives_where_it_is_used():
    store, service = make()
    name = await create(service, parts(WHOLE))
    used = store.get("alice", name)
    request = pb.DeleteTensorRequest(name=name).SerializeToString()
    with pytest.raises(NotFoundError):
        await service.delete_tensor(request, Call("r", 1.0, "bob"))
    await service.delete_tensor(request, Call("r", 1.0, "alice"))
    with pytest.raises(NotFoundError):
        await service.delete_tensor(request, Call("r", 1.0, "alice"))
    assert store.get("alice", name) is None
    assert bytes(used.segment.buffer) == WHOLE.tobytes()
    descriptor = used.segment.descriptor
    assert is_open(descriptor)
    del used
    gc.collect()
    assert not is_open(descriptor)


async def test_small_tensors_count_for_the_descriptors_they_take():
    store, service = make(tensor_store_bytes=2**20)
    names = [await create(service, parts(np.full(1, number))) for number in map(float, range(100))]
    found = [store.get("alice", name) is not None for name in names]
    assert 1 <= sum(found) <= 16
    assert found[-1]


@pytest.mark.parametrize("name", ["", "x", "programs/" + "0" * 64])
async def test_what_is_no_name_is_refused(name):
    store, service = make()
    with pytest.raises(ArgumentError):
        store.get("alice", name)
    with pytest.raises(ArgumentError):
        await service.delete_tensor(pb.DeleteTensorRequest(name=name).SerializeToString(), Call("r", 1.0))


def test_the_bytes_of_all_uploads_are_counted():
    uploads = Uploads(ServerConfig(tensor_store_bytes=100))
    uploads.count("alice", 60)
    with pytest.raises(OverloadedError):
        uploads.count("bob", 60)
    uploads.count("alice", -60)
    uploads.count("bob", 60)
