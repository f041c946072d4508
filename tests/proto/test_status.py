"""Errors across the wire: the same class, text and metadata come out, whatever made the status."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status

import gradwire_core.errors
from gradwire_core import errors
from gradwire_core.errors import GradwireError
from gradwire_proto.status import DOMAIN, decode_status, encode_status

TRAILER_BYTES = 8192


def subclasses(kind):
    for item in kind.__subclasses__():
        yield item
        yield from subclasses(item)


KINDS = [kind for kind in subclasses(GradwireError) if kind.__module__ == gradwire_core.errors.__name__]


def wire(error, request_id=""):
    return decode_status(Status.FromString(encode_status(error, request_id).SerializeToString()))


def detail(status, kind):
    message = kind()
    found = [item for item in status.details if item.Unpack(message)]
    assert len(found) == 1
    return message


def test_reasons_are_unique():
    assert len({kind.reason for kind in KINDS}) == len(KINDS) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_survives(kind):
    error = kind("sin: needed a float, got bool; convert it", given="bool", count=2)
    status = encode_status(error, "7f3a")
    given = wire(error, "7f3a")
    assert type(given) is kind
    assert given.message == str(given) == error.message
    assert error.metadata.items() <= given.metadata.items()
    assert set(given.metadata) - set(error.metadata) <= {"request_id", "retry_after_s"}
    assert given.metadata["request_id"] == "7f3a"
    assert code_pb2.Code.Name(status.code) == kind.code
    info = detail(status, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (kind.reason, "gradwire.v1")


def test_metadata_may_have_any_name():
    error = errors.ArgumentError("x")
    error.metadata = {"message": "a", "self": "b", "": "c"}
    assert wire(error).metadata == error.metadata


@pytest.mark.parametrize(
    ("kind", "delay_s"), [(errors.OverloadedError, 0.1), (errors.DrainingError, 0.0), (errors.QuotaError, 1.0)]
)
def test_what_may_be_retried_says_when(kind, delay_s):
    delay = detail(encode_status(kind("full")), error_details_pb2.RetryInfo).retry_delay
    assert delay.ToNanoseconds() == delay_s * 1e9
    assert wire(kind("full")).metadata == {"retry_after_s": str(delay_s)}
    assert wire(kind("full", retry_after_s=2.25)).metadata == {"retry_after_s": "2.25"}
    assert detail(encode_status(kind("full", retry_after_s=2.25)), error_details_pb2.RetryInfo).retry_delay.nanos == 250_000_000


def test_nothing_else_says_to_retry():
    for kind in set(KINDS) - {errors.OverloadedError, errors.DrainingError, errors.QuotaError}:
        assert not any(item.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for item in encode_status(kind("no")).details)


def test_a_missing_program_is_a_failed_precondition():
    status = encode_status(errors.ProgramMissingError("not here", name="programs/ab"))
    (violation,) = detail(status, error_details_pb2.PreconditionFailure).violations
    assert (violation.type, violation.subject, violation.description) == ("MISSING", "programs/ab", "not here")


def test_missing_tensors_are_named_one_by_one():
    names = [f"tensors/{number:064x}" for number in range(12)]
    status = encode_status(errors.TensorMissingError("not here", names=",".join(names)))
    violations = detail(status, error_details_pb2.PreconditionFailure).violations
    assert [(item.type, item.subject) for item in violations] == [("MISSING", name) for name in names]
    assert decode_status(status).metadata["names"].split(",") == names


@pytest.mark.parametrize("letter", ["x", "\u20ac", "\ud800"])
def test_long_texts_fit_into_the_trailers(letter):
    error = errors.ProgramError(letter * 100_000, **{f"key{number}": letter * 10_000 for number in range(100)})
    status = encode_status(error, "id" * 5000)
    assert len(base64.b64encode(status.SerializeToString())) + 3 * len(status.message.encode()) < TRAILER_BYTES
    given = decode_status(status)
    assert type(given) is errors.ProgramError
    assert given.message.endswith("...")


def test_statuses_that_gradwire_did_not_make():
    cases = [
        ("RESOURCE_EXHAUSTED", errors.LimitError),
        ("UNAVAILABLE", errors.UnreachableError),
        ("UNAUTHENTICATED", errors.UnauthenticatedError),
        ("DEADLINE_EXCEEDED", errors.DeadlineError),
        ("INTERNAL", errors.InternalError),
        ("UNIMPLEMENTED", GradwireError),
        ("DATA_LOSS", GradwireError),
    ]
    for code, kind in cases:
        error = decode_status(Status(code=code_pb2.Code.Value(code), message="proxy says no"))
        assert (type(error), error.message, error.metadata) == (kind, "proxy says no", {"code": code})
    assert decode_status(Status(code=99)).metadata == {"code": "99"}


def test_reasons_of_a_newer_server_give_the_nearest_class():
    status = encode_status(errors.ShapeError("sin: needed more", given=1))
    info = error_details_pb2.ErrorInfo(reason="SHAPE_TOO_ROUND", domain=DOMAIN, metadata={"given": "1"})
    status.details[0].Pack(info)
    error = decode_status(status)
    assert type(error) is errors.ArgumentError
    assert error.metadata == {"code": "INVALID_ARGUMENT", "reason": "SHAPE_TOO_ROUND", "given": "1"}


def test_reasons_of_other_domains_are_not_ours():
    status = Status(code=code_pb2.INVALID_ARGUMENT, message="no")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="SHAPE_MISMATCH", domain="example.com"))
    assert type(decode_status(status)) is errors.ArgumentError


def test_details_that_cannot_be_read_are_left_out():
    broken = AnyMessage(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    assert type(decode_status(Status(code=5, message="no", details=[broken]))) is errors.NotFoundError


def test_the_manual_names_reasons_with_their_codes():
    manual = Path(__file__).parents[2] / "proto" / "gradwire" / "v1" / "differentiation_service.proto"
    text = re.sub(r"\n\s*// *", " ", manual.read_text())
    known = {(kind.code, kind.reason) for kind in KINDS}
    pairs = [
        (code, reason)
        for code, reasons in re.findall(r"\b([A-Z_]{6,}) \(([A-Z_]{5,}(?:, [A-Z_]{5,})*)\)", text)
        for reason in reasons.split(", ")
    ]
    assert len(pairs) > 20
    assert set(pairs) <= known
