"""Errors of gradwire, between exceptions and google.rpc.Status.

A status carries ErrorInfo (reason, domain, metadata) and RequestInfo; PreconditionFailure where a program or tensors are missing;
RetryInfo where a retry helps. Texts are cut to what fits into the trailers of a response, which gRPC limits to 8 KiB by default.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from gradwire_core import errors
from gradwire_core.errors import GradwireError

DOMAIN = "gradwire.v1"
"""The domain of ErrorInfo: whose reasons these are."""

MESSAGE_BYTES_LIMIT = 1024
VALUE_BYTES_LIMIT = 128
NAMES_BYTES_LIMIT = 1024
METADATA_LIMIT = 12

_RETRY_AFTER_S = {errors.OverloadedError: 0.1, errors.DrainingError: 0.0, errors.QuotaError: 1.0}
"""The delays of RetryInfo, in seconds, where the error has no `retry_after_s` in its metadata."""

_BY_CODE: dict[str, type[GradwireError]] = {
    "INVALID_ARGUMENT": errors.ArgumentError,
    "RESOURCE_EXHAUSTED": errors.LimitError,
    "UNAVAILABLE": errors.UnreachableError,
    "DEADLINE_EXCEEDED": errors.DeadlineError,
    "CANCELLED": errors.CancelledError,
    "NOT_FOUND": errors.NotFoundError,
    "UNAUTHENTICATED": errors.UnauthenticatedError,
    "PERMISSION_DENIED": errors.PermissionDeniedError,
    "INTERNAL": errors.InternalError,
}
"""The classes of statuses that gradwire did not make, or of reasons this version does not know."""


def encode_status(error: GradwireError, request_id: str = "") -> Status:
    """Return the status of an error.

    Args:
        error: the error. Of its metadata, `name` is the subject of a missing program, `names` those of missing tensors, and
            `retry_after_s` the delay in seconds of a retry.
        request_id: the id of the request, quoted in RequestInfo.
    """
    status = Status(code=code_pb2.Code.Value(error.code), message=cut_message(error.message))
    kept = list(error.metadata.items())[:METADATA_LIMIT]
    limits = {"names": NAMES_BYTES_LIMIT}
    metadata = {_cut(key, VALUE_BYTES_LIMIT): _cut(value, limits.get(key, VALUE_BYTES_LIMIT)) for key, value in kept}
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if request_id:
        status.details.add().Pack(error_details_pb2.RequestInfo(request_id=_cut(request_id, VALUE_BYTES_LIMIT)))
    if isinstance(error, (errors.ProgramMissingError, errors.TensorMissingError)):
        names = error.metadata.get("name") or error.metadata.get("names", "")
        violations = [
            error_details_pb2.PreconditionFailure.Violation(
                type="MISSING", subject=_cut(name, VALUE_BYTES_LIMIT), description="" if index else status.message
            )
            for index, name in enumerate(names.split(",")[:METADATA_LIMIT])
        ]
        status.details.add().Pack(error_details_pb2.PreconditionFailure(violations=violations))
    delay_s = _RETRY_AFTER_S.get(type(error))
    if delay_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(float(error.metadata.get("retry_after_s", delay_s)) * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def cut_message(text: str) -> str:
    """Return the text of an error as its status has it."""
    return _cut(text, MESSAGE_BYTES_LIMIT)


def add_request_id(status: bytes, request_id: str) -> bytes:
    """Return a serialized status with the id of the request quoted in it: fields of a message may stand in any order."""
    quoted = Status()
    quoted.details.add().Pack(error_details_pb2.RequestInfo(request_id=_cut(request_id, VALUE_BYTES_LIMIT)))
    return status + bytes(quoted.SerializeToString())


def decode_status(status: Status) -> GradwireError:
    """Return the error of a status: the class that was raised, its text and its metadata.

    The metadata also get `request_id` and `retry_after_s`, where the status tells them. A status that gradwire did not make,
    or whose reason this version does not know, gives the class nearest to its code, else a plain GradwireError; the code, and
    the reason if there is one, are then in the metadata.
    """
    info, request, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for target in (info, request, retry):
            with contextlib.suppress(DecodeError):
                detail.Unpack(target)
    told: dict[str, str] = {}
    kind = _by_reason().get(info.reason) if info.domain == DOMAIN else None
    if kind is None:
        code = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else str(status.code)
        kind = _BY_CODE.get(code, GradwireError)
        told["code"] = code
        if info.reason:
            told["reason"] = info.reason
    if request.request_id:
        told["request_id"] = request.request_id
    if retry.HasField("retry_delay"):
        told["retry_after_s"] = str(retry.retry_delay.ToNanoseconds() / 1e9)
    error = kind(status.message)
    error.metadata = {**told, **info.metadata}
    return error


def _by_reason() -> dict[str, type[GradwireError]]:
    return {kind.reason: kind for kind in _subclasses(GradwireError)}


def _subclasses(kind: type[GradwireError]) -> Iterator[type[GradwireError]]:
    for item in kind.__subclasses__():
        yield item
        yield from _subclasses(item)


def _cut(text: str, limit: int) -> str:
    raw = text.encode(errors="replace")
    return raw.decode() if len(raw) <= limit else raw[: limit - 3].decode(errors="ignore") + "..."
