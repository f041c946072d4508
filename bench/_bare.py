"""The bare services that gradwire's is measured beside: grpc.aio and uvloop, and the same mathematics by hand-written NumPy.

Unary and Session give value and gradient of Rosenbrock's function; Double gives twice the elements of a stream of chunks.
"""

from __future__ import annotations

import argparse
import contextlib
import os

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import grpc
import numpy as np
from _mathematics import value_and_gradient

SERVICE = "bare.Service"
ANY_SIZE = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def answer(content: bytes, offset: int = 0) -> bytes:
    """Return value and gradient of Rosenbrock's function at float64 numbers that begin at an offset."""
    return value_and_gradient(np.frombuffer(content, np.float64, offset=offset)).tobytes()


async def unary(request: bytes, _context: object) -> bytes:
    return answer(request)


async def session(requests: object, context: grpc.aio.ServicerContext) -> None:
    """Answer each request of a stream: eight bytes that name it, then the numbers."""
    async for request in requests:
        await context.write(request[:8] + answer(request, 8))


async def double(requests: object, context: grpc.aio.ServicerContext) -> None:
    """Gather chunks until the caller has sent as many bytes as the first message says, and send back twice their numbers."""
    size, chunk = map(int, (await anext(requests)).split())
    gathered, place = bytearray(size), 0
    while place < size:
        part = await anext(requests)
        gathered[place : place + len(part)] = part
        place += len(part)
    answer = memoryview(2.0 * np.frombuffer(gathered)).cast("B")
    del gathered
    for place in range(0, size, chunk):
        await context.write(bytes(answer[place : place + chunk]))


async def serve(port: int) -> None:
    server = grpc.aio.server(options=(*ANY_SIZE, ("grpc.so_reuseport", 1)))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Session": grpc.stream_stream_rpc_method_handler(session),
        "Double": grpc.stream_stream_rpc_method_handler(double),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description="a bare gRPC service")
    parser.add_argument("--port", type=int, default=0)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
