"""Every error gradwire raises, each knowing what the wire needs to know of it.

This module imports nothing. A class carries its `reason` (unique, stable, machine readable) and its `code` (the name of a
gRPC status code, as a plain string: the core knows no gRPC). Texts follow one form: where: what was needed, what was given;
what to do. Every value named in a text also stands in `metadata`.

    GradwireError
    |-- ProgramError                 INVALID_PROGRAM       the program breaks its grammar or its types
    |-- ShapeError                   SHAPE_MISMATCH        an operand has the wrong shape
    |-- DtypeError                   DTYPE_MISMATCH        an operand has the wrong dtype
    |-- NotDifferentiableError       NOT_DIFFERENTIABLE    a derivative in an integer or boolean input
    |-- UnknownPrimitiveError        UNKNOWN_PRIMITIVE     a primitive this version does not have
    |-- ArgumentError                INVALID_ARGUMENT      a malformed request or argument
    |-- LimitError                   LIMIT_EXCEEDED        a request larger than the server allows
    |-- ProgramMissingError          PROGRAM_MISSING       a named program this replica does not hold
    |-- TensorMissingError           TENSOR_MISSING        named tensors this replica does not hold
    |-- OverloadedError              OVERLOADED            the queue is full
    |-- DrainingError                DRAINING              the server is stopping
    |-- DeadlineError                DEADLINE_EXCEEDED     the caller's time ran out
    |-- CancelledError               CANCELLED             the caller gave up
    |-- NotFoundError                NOT_FOUND             no such program or tensor
    |-- UnauthenticatedError         UNAUTHENTICATED       no valid credentials
    |-- PermissionDeniedError        PERMISSION_DENIED     valid credentials without the right
    |-- QuotaError                   QUOTA_EXCEEDED        an identity used its share
    |-- UnreachableError             UNREACHABLE           the SDK found no server
    |-- PoisonedTaskError            POISONED_TASK         a request that killed two workers
    |-- WorkerLostError              WORKER_LOST           a worker died and no other could take over
    |-- InternalError                INTERNAL              a defect of gradwire
    `-- TracingError                 TRACING               Python that cannot be traced; never on the wire
"""

from __future__ import annotations

from typing import ClassVar


class GradwireError(Exception):
    """Any error of gradwire.

    Args:
        message: where: what was needed, what was given; what to do.
        metadata: the values named in the message, as text, by name.
    """

    reason: ClassVar[str] = "UNKNOWN"
    code: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = {key: str(value) for key, value in metadata.items()}

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by message and metadata, so that errors cross process pools."""
        return (_rebuild, (type(self), self.message, self.metadata))


def _rebuild(kind: type[GradwireError], message: str, metadata: dict[str, str]) -> GradwireError:
    return kind(message, **metadata)


class ProgramError(GradwireError):
    """Raised when a program breaks its grammar or its types."""

    reason = "INVALID_PROGRAM"
    code = "INVALID_ARGUMENT"


class ShapeError(GradwireError):
    """Raised when operands have shapes an operation cannot take."""

    reason = "SHAPE_MISMATCH"
    code = "INVALID_ARGUMENT"


class DtypeError(GradwireError):
    """Raised when operands have dtypes an operation cannot take."""

    reason = "DTYPE_MISMATCH"
    code = "INVALID_ARGUMENT"


class NotDifferentiableError(GradwireError):
    """Raised when a derivative is asked for in an integer or boolean input, or of such an output."""

    reason = "NOT_DIFFERENTIABLE"
    code = "INVALID_ARGUMENT"


class UnknownPrimitiveError(GradwireError):
    """Raised when a program or a traced function uses a primitive that this version does not have."""

    reason = "UNKNOWN_PRIMITIVE"
    code = "UNIMPLEMENTED"


class ArgumentError(GradwireError):
    """Raised when a request or a call is malformed apart from its program, shapes and dtypes."""

    reason = "INVALID_ARGUMENT"
    code = "INVALID_ARGUMENT"


class LimitError(GradwireError):
    """Raised when a request is larger than the server allows; retrying does not help."""

    reason = "LIMIT_EXCEEDED"
    code = "RESOURCE_EXHAUSTED"


class ProgramMissingError(GradwireError):
    """Raised when a request names a program that this replica does not hold; send it, then repeat."""

    reason = "PROGRAM_MISSING"
    code = "FAILED_PRECONDITION"


class TensorMissingError(GradwireError):
    """Raised when a request names tensors that this replica does not hold; send them, then repeat."""

    reason = "TENSOR_MISSING"
    code = "FAILED_PRECONDITION"


class OverloadedError(GradwireError):
    """Raised when the server has no room for another request now; the SDK retries."""

    reason = "OVERLOADED"
    code = "UNAVAILABLE"


class DrainingError(GradwireError):
    """Raised when the server is stopping and takes no new requests; the SDK retries elsewhere."""

    reason = "DRAINING"
    code = "UNAVAILABLE"


class DeadlineError(GradwireError):
    """Raised when the deadline of a call passed before its answer."""

    reason = "DEADLINE_EXCEEDED"
    code = "DEADLINE_EXCEEDED"


class CancelledError(GradwireError):
    """Raised when a call was cancelled before its answer."""

    reason = "CANCELLED"
    code = "CANCELLED"


class NotFoundError(GradwireError):
    """Raised when the program or tensor named by a Get or Delete does not exist."""

    reason = "NOT_FOUND"
    code = "NOT_FOUND"


class UnauthenticatedError(GradwireError):
    """Raised when a call carries no valid credentials; bring a valid token."""

    reason = "UNAUTHENTICATED"
    code = "UNAUTHENTICATED"


class PermissionDeniedError(GradwireError):
    """Raised when valid credentials lack the right; ask the operator."""

    reason = "PERMISSION_DENIED"
    code = "PERMISSION_DENIED"


class QuotaError(GradwireError):
    """Raised when an identity has used its share; wait as told."""

    reason = "QUOTA_EXCEEDED"
    code = "RESOURCE_EXHAUSTED"


class UnreachableError(GradwireError):
    """Raised by the SDK when no server answers at the target, retries included."""

    reason = "UNREACHABLE"
    code = "UNAVAILABLE"


class PoisonedTaskError(GradwireError):
    """Raised when a request killed two workers in a row; make it smaller."""

    reason = "POISONED_TASK"
    code = "RESOURCE_EXHAUSTED"


class WorkerLostError(GradwireError):
    """Raised when a worker died and its task could not run elsewhere."""

    reason = "WORKER_LOST"
    code = "INTERNAL"


class InternalError(GradwireError):
    """Raised for a defect of gradwire; report the request id."""

    reason = "INTERNAL"
    code = "INTERNAL"


class TracingError(GradwireError):
    """Raised when Python code needs the value of a traced array; says how to write it instead."""

    reason = "TRACING"
    code = "INVALID_ARGUMENT"
