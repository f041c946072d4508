"""What one identity may use at a time, so that no one crowds out the others. Each front end counts for itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType

from gradwire_core.errors import OverloadedError, QuotaError
from gradwire_server.config import ServerConfig


@dataclass(slots=True)
class _Share:
    """What an identity uses: its calls that run, and how many more it may begin, as of a time."""

    running: int
    left: float
    as_of_s: float


_FREE = nullcontext()


class Quotas:
    """Counts the calls of each identity, and refuses those past its share.

    Args:
        config: the settings `max_identity_...`; 0 is no limit.
        clock: seconds that only grow.

    Attributes:
        is_limited: whether there are any limits.
    """

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._call_count = config.max_identity_call_count
        self._calls_per_s = config.max_identity_calls_per_s
        self.is_limited = bool(self._call_count or self._calls_per_s)
        self._clock = clock
        self._shares: dict[str, _Share] = {}

    def using(self, identity: str) -> AbstractContextManager[object]:
        """Count one call, for as long as the block runs; raises as `enter`."""
        return _Use(self, identity) if self.is_limited else _FREE

    def enter(self, identity: str) -> None:
        """Count a call that begins; `leave` must follow, unless this raises.

        Raises:
            OverloadedError: as many calls of the identity run as may.
            QuotaError: the identity began as many calls as it may; the metadata tell when it may begin another.
        """
        now_s = self._clock()
        share = self._shares.get(identity)
        if share is None:
            share = self._shares[identity] = _Share(0, float(self._calls_per_s), now_s)
        if self._call_count and share.running >= self._call_count:
            allowed = self._call_count
            raise OverloadedError(
                f"identity {identity}: needed at most {allowed} calls at a time, got one more; retry when one is answered",
                limit="identity_call_count",
                allowed=allowed,
                given=allowed + 1,
            )
        if self._calls_per_s:
            self._begin(identity, share, now_s)
        share.running += 1

    def leave(self, identity: str) -> None:
        """Count a call that ended."""
        share = self._shares[identity]
        share.running -= 1
        if not (share.running or self._calls_per_s):
            del self._shares[identity]

    def _begin(self, identity: str, share: _Share, now_s: float) -> None:
        """Take one of the calls that an identity may begin; in a second it gets a second's worth back, and never has more."""
        rate = self._calls_per_s
        share.left = min(share.left + (now_s - share.as_of_s) * rate, float(rate))
        share.as_of_s = now_s
        if share.left < 1:
            wait_s = (1 - share.left) / rate
            raise QuotaError(
                f"identity {identity}: needed at most {rate} calls a second, got more; wait {wait_s:.3g} s",
                limit="identity_calls_per_s",
                allowed=rate,
                retry_after_s=f"{wait_s:.3g}",
            )
        share.left -= 1


@dataclass(frozen=True, slots=True)
class _Use:
    """One call of an identity."""

    quotas: Quotas
    identity: str

    def __enter__(self) -> None:
        self.quotas.enter(self.identity)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.quotas.leave(self.identity)
