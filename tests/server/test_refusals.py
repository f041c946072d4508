import numpy as np
from google.rpc.status_pb2 import Status

from gradwire_core.errors import LimitError, OverloadedError
from gradwire_proto.status import decode_status, encode_status
from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.refusals import Refusals

FULL = OverloadedError("queue: needed a place, got 3 tasks; retry", waiting=3, retry_after_s="0.25", refused_for_s="0.003")


def request(x: float, name: str = "a", size: int = 3) -> bytes:
    inputs = [encode_tensor(np.full(size, x))]
    return pb.EvaluateRequest(program_name="programs/" + 64 * name, inputs=inputs, outputs=[pb.Output()]).SerializeToString()


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_like_of_what_was_refused_is_refused_for_a_moment():
    clock = Clock()
    refusals = Refusals(clock)
    assert refusals.find("me", request(1.0)) is None
    refusals.note("me", request(1.0), FULL)
    found = refusals.find("me", request(2.0))
    assert found is not None
    assert found.error is FULL
    assert refusals.find("me", request(2.0, name="b")) is None
    assert refusals.find("me", request(2.0, size=4)) is None
    clock.now_s += 0.0031
    assert refusals.find("me", request(2.0)) is None
    refusals.note("me", request(1.0), FULL)
    assert refusals.find("me", request(2.0)) is not None


def test_another_identity_is_not_told_of_it():
    refusals = Refusals(Clock())
    refusals.note("me", request(1.0), FULL)
    assert refusals.find("you", request(1.0)) is None


def test_only_what_the_queue_is_the_reason_of_is_known_of_others():
    refusals = Refusals(Clock())
    for error in (LimitError("input 0: needed less, got more; change it"), OverloadedError("queue: needed less; wait", waiting=3)):
        refusals.note("me", request(1.0), error)
        assert refusals.find("me", request(1.0)) is None
    refusals.note("me", b"no request", FULL)
    assert refusals.find("me", b"no request") is None


def test_requests_whose_elements_come_apart_are_looked_at():
    refusals = Refusals(Clock())
    apart = pb.EvaluateRequest.FromString(request(1.0))
    apart.inputs.add(dtype=1, shape=[3])
    refusals.note("me", apart.SerializeToString(), FULL)
    assert refusals.find("me", apart.SerializeToString()) is None


def test_its_status_names_each_request():
    refusals = Refusals(Clock())
    refusals.note("me", request(1.0), FULL)
    found = refusals.find("me", request(2.0))
    assert found is not None
    for request_id in ("one", "other"):
        told = decode_status(Status.FromString(found.status(request_id)))
        assert (told.message, told.metadata) == (FULL.message, decode_status(encode_status(FULL, request_id)).metadata)


def test_many_identities_take_no_more_memory():
    refusals = Refusals(Clock())
    for number in range(1000):
        refusals.note(str(number), request(1.0), FULL)
    known = refusals._known.find(request(1.0))
    assert known is not None
    assert len(known) <= 64
