"""Tensors that callers store and name: how they arrive, are kept, found and forgotten. No mathematics, no gRPC.

A tensor is kept in memory that a worker reads in place (`segments`), so that a request that names it moves no elements. Each takes
a file descriptor, so a small one counts as much as a share of those.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gradwire_core.errors import ArgumentError, DeadlineError, LimitError, NotFoundError, OverloadedError
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.known import check_known
from gradwire_proto.tensor import check_bools, check_shape, check_tensor_name, decode_dtype, tensor_hash, tensor_name
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.calls import Call, Handler, Read, UploadHandler
from gradwire_server.config import ServerConfig
from gradwire_server.limits import Limits
from gradwire_server.requests import parse_request
from gradwire_server.segments import Segment
from gradwire_server.store import Store

_ENTRY_BYTES = 64 * 1024  # what the store counts for a tensor at least
_SMALL_BYTES = 64 * 1024  # of what is hashed and written on the event loop
_WHERE = "tensor"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it is kept: its type, and its elements as in Tensor.data, which nobody may change."""

    type: TensorType
    segment: Segment


class TensorStore:
    """Stored tensors by the identity that sees them and by name.

    Args:
        config: the bounds of the store.
        tensors: where they are kept.
    """

    def __init__(self, config: ServerConfig, tensors: Store[StoredTensor]) -> None:
        self._tensors = tensors
        self._entry_bytes = max(_ENTRY_BYTES, 2 * config.tensor_store_bytes // resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def get(self, identity: str, name: str) -> StoredTensor | None:
        """Return a tensor and count this as a use; None if the identity sees none of that name.

        Its segment lives as long as somebody holds it, be the tensor forgotten meanwhile, and must not be closed.

        Raises:
            ArgumentError: the text is no name of a tensor.
        """
        return self._tensors.get(identity, check_tensor_name(name))

    async def put(self, identity: str, digest: str, tensor: StoredTensor) -> None:
        """Keep a tensor, in place of one of the same digest."""
        await self._tensors.put(identity, digest, tensor, max(tensor.segment.size, self._entry_bytes))

    async def discard(self, identity: str, name: str) -> bool:
        """Forget a tensor; tell whether the identity had one of that name.

        Raises:
            ArgumentError: the text is no name of a tensor.
        """
        return await self._tensors.discard(identity, check_tensor_name(name))


class TensorService:
    """The handlers of CreateTensor and DeleteTensor.

    Args:
        config: the bounds of tensors, and of those on their way.
        store: where they are kept.
    """

    def __init__(self, config: ServerConfig, store: TensorStore) -> None:
        self._limits = Limits.from_config(config)
        self._max_identity_bytes = config.identity_tensor_limit_bytes
        self._stall_timeout_s = config.stall_timeout_s
        self._store = store
        self._uploads = Uploads(config)

    def handlers(self) -> dict[str, Handler]:
        """Return the handler of each rpc of one request, by its name."""
        return {"DeleteTensor": self.delete_tensor}

    def upload_handlers(self) -> dict[str, UploadHandler]:
        """Return the handler of each rpc whose request is a stream, by its name."""
        return {"CreateTensor": self.create_tensor}

    async def create_tensor(self, read: Read, call: Call) -> bytes:
        """Store the tensor whose type and elements a stream of messages brings.

        Raises:
            GradwireError: it is none, is too large, or does not arrive in time.
        """
        messages = _Messages(read, call.timeout_s, self._stall_timeout_s)
        request = await messages.next()
        if request is None or not request.HasField("tensor"):
            raise ArgumentError("CreateTensorRequest: needed a tensor in the first message, got none; send its type first")
        type, data = self._check_type(request), request.tensor.data
        with self._uploads.begin(call.identity, type) as upload:
            while True:
                await upload.add(data)
                request = await messages.next()
                if request is None:
                    break
                if request.HasField("tensor"):
                    raise ArgumentError("CreateTensorRequest: needed one in the first message alone, got it again; send `data`")
                data = request.data
            tensor = upload.finish()
        await self._store.put(call.identity, upload.digest, tensor)
        return pb.CreateTensorResponse(name=tensor_name(upload.digest)).SerializeToString()

    async def delete_tensor(self, message: bytes, call: Call) -> bytes:
        """Forget a stored tensor."""
        request = parse_request(pb.DeleteTensorRequest, message)
        check_known(request)
        if not await self._store.discard(call.identity, request.name):
            name = request.name
            raise NotFoundError(f"tensor: needed one that this server holds, got {name}; there is nothing to do", name=name)
        return pb.DeleteTensorResponse().SerializeToString()

    def _check_type(self, request: pb.CreateTensorRequest) -> TensorType:
        """Return the type of a tensor that may be stored, before any memory is taken for it."""
        tensor = request.tensor
        if tensor.name or request.data:
            raise ArgumentError("CreateTensorRequest: needed dtype, shape and data of a tensor, got more; unset `name` and `data`")
        dtype = decode_dtype(tensor.dtype, _WHERE)
        shape = tuple(tensor.shape)
        check_shape(shape, dtype, _WHERE)
        type = TensorType(dtype, shape)
        self._limits.check_stored_tensor(tensor, type.nbytes)
        if type.nbytes > self._max_identity_bytes:
            allowed, given = self._max_identity_bytes, type.nbytes
            text = f"tensor: needed at most {allowed} bytes of an identity, got {given}; send it with the request instead"
            raise LimitError(text, limit="identity_tensor_bytes", allowed=allowed, given=given)
        return type


class Uploads:
    """The tensors on their way into the store. Together they may take as many bytes as the store: those that have arrived count.

    Args:
        config: the bounds of the store.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._max_bytes = config.tensor_store_bytes
        self._max_identity_bytes = config.identity_tensor_limit_bytes
        self._bytes: dict[str, int] = {}

    @contextlib.contextmanager
    def begin(self, identity: str, type: TensorType) -> Iterator[Upload]:
        """Receive a tensor for the length of a block.

        Raises:
            OverloadedError: the system has no descriptor left.
        """
        upload = Upload(self, identity, type)
        try:
            yield upload
        finally:
            self.count(identity, -upload.size)

    def count(self, identity: str, size: int) -> None:
        """Count bytes that arrived, or, below 0, that are stored or lost.

        Raises:
            OverloadedError: there are too many.
        """
        held = self._bytes.get(identity, 0) + size
        if size > 0:
            if held > self._max_identity_bytes:
                raise _full("identity_tensor_bytes", self._max_identity_bytes)
            if size + sum(self._bytes.values()) > self._max_bytes:
                raise _full("tensor_store_bytes", self._max_bytes)
        if held:
            self._bytes[identity] = held
        else:
            self._bytes.pop(identity, None)


class Upload:
    """A tensor on its way into the store.

    Args:
        uploads: all of them.
        identity: whose it is.
        type: its type.

    Attributes:
        size: bytes that have arrived.
        digest: its digest, once it is finished.
    """

    def __init__(self, uploads: Uploads, identity: str, type: TensorType) -> None:
        self._uploads = uploads
        self._identity = identity
        self._type = type
        self._hash = tensor_hash(type)
        self.size = 0
        self.digest = ""
        try:
            self._segment = Segment.create(type.nbytes)
        except OSError as error:
            raise _out_of_memory(error) from error

    async def add(self, data: bytes) -> None:
        """Take the next elements.

        Raises:
            ArgumentError: they are more than the type has, or bools other than 0 and 1.
            OverloadedError: there is no room for them now.
        """
        if self.size + len(data) > len(self._segment):
            raise self._mismatch("more")
        if not data:
            return
        self._uploads.count(self._identity, len(data))
        self.size += len(data)
        try:
            if len(data) <= _SMALL_BYTES:
                self._write(data)
            else:
                await _in_thread(self._write, data)
        except OSError as error:
            raise _out_of_memory(error) from error

    def finish(self) -> StoredTensor:
        """Return the tensor.

        Raises:
            ArgumentError: elements are missing.
        """
        if self.size < len(self._segment):
            raise self._mismatch(str(self.size))
        self.digest = self._hash.hexdigest()
        return StoredTensor(self._type, self._segment)

    def _write(self, data: bytes) -> None:
        if self._type.dtype is Dtype.BOOL:
            check_bools(data, _WHERE)
        self._hash.update(data)
        place = self.size - len(data)
        for start in range(0, len(data), 2**30):  # the kernel takes no more at a time
            part = memoryview(data)[start : start + 2**30]
            while part:
                count = os.pwrite(self._segment.descriptor, part, place)
                part, place = part[count:], place + count

    def _mismatch(self, given: str) -> ArgumentError:
        needed = len(self._segment)
        text = f"tensor: needed {needed} bytes for {self._type}, got {given}; send every element once, without padding"
        return ArgumentError(text, needed=needed, given=given)


class _Messages:
    """The messages of a stream, which must come in time.

    Args:
        read: returns the next one.
        timeout_s: seconds for all of them.
        stall_timeout_s: seconds for each.
    """

    def __init__(self, read: Read, timeout_s: float, stall_timeout_s: float) -> None:
        self._read = read
        self._timeout_s = timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._end_s = time.monotonic() + timeout_s

    async def next(self) -> pb.CreateTensorRequest | None:
        """Return the next message; None when the caller has ended the stream.

        Raises:
            ArgumentError: it is none, or holds what this version does not know.
            DeadlineError: it does not come in time.
        """
        try:
            async with asyncio.timeout(min(self._stall_timeout_s, self._end_s - time.monotonic())):
                message = await self._read()
        except TimeoutError:
            is_over = time.monotonic() >= self._end_s
            needed, allowed_s = ("all", self._timeout_s) if is_over else ("the next", self._stall_timeout_s)
            raise DeadlineError(
                f"tensor: needed {needed} of its elements within {allowed_s:.3g} s, got fewer; send faster or allow more time",
                timeout_s=f"{allowed_s:.3g}",
            ) from None
        if message is None:
            return None
        request = parse_request(pb.CreateTensorRequest, message)
        check_known(request)
        return request


async def _in_thread(work: Callable[[bytes], None], data: bytes) -> None:
    """Do work in a thread, and wait for its end even when the call is cancelled: it writes where nobody else must."""
    running = asyncio.ensure_future(asyncio.to_thread(work, data))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await running
        raise


def _full(limit: str, allowed: int) -> OverloadedError:
    text = f"tensor: needed at most {allowed} bytes of tensors on their way at a time, got more; retry after a moment"
    return OverloadedError(text, limit=limit, allowed=allowed)


def _out_of_memory(error: OSError) -> OverloadedError:
    why = error.strerror or "nothing"
    return OverloadedError(f"tensor: needed memory to store it in, got none ({why}); retry after a moment")
