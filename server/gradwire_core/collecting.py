"""When garbage is collected while programs are written and derived. Nothing else may live here.

Both make many records and no cycles. The collector walks them again and again as their number grows, and with them all that the
process holds besides, which takes longer than making them.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

MANY_RECORDS = 50_000


@contextlib.contextmanager
def collecting_later() -> Iterator[None]:
    """Put garbage collection off for a block that makes many records and no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if gc.get_count()[0] > MANY_RECORDS and not gc.get_freeze_count():
                gc.freeze()  # and so they count as old, without a walk over all of them now
                gc.unfreeze()
            gc.enable()
