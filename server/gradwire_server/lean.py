"""What has a process that serves for months not grow. Nothing else may live here.

What is freed stays in the heap for what comes, and is spread over it: each time that more is in use at once than ever before, or in
other sizes, the heap grows a little, and by itself it never shrinks. So what is free is given back every so often. To do so takes
about a millisecond, and to have it again as long.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from gradwire_core.allocator import give_freed_memory_back

INTERVAL_S = 10.0


@contextlib.asynccontextmanager
async def staying_lean() -> AsyncIterator[None]:
    """Give freed memory of this process back to the system every so often, for the length of a block."""
    giving = asyncio.create_task(_give())
    try:
        yield
    finally:
        giving.cancel()
        await asyncio.gather(giving, return_exceptions=True)


async def _give() -> None:
    while True:
        await asyncio.sleep(INTERVAL_S)
        await asyncio.to_thread(give_freed_memory_back)
