"""Requests that were refused a moment ago for want of room: the like of them are refused again before anything is done for them.

When far more comes than can be done, to refuse is most of the work, and takes the processor from the rest. So the answer to one is
kept for as long as the error says, a moment much shorter than it takes the queue to have room again. No gRPC. Nothing else may
live here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gradwire_core.errors import GradwireError, OverloadedError
from gradwire_proto.status import add_request_id, encode_status
from gradwire_server.skeletons import Message, Skeletons, request_skeleton

_KNOWN_COUNT = 64
_IDENTITY_COUNT = 64


class Refusal:
    """The answer to requests that are refused.

    Args:
        error: what they are refused with.
        until_s: when to look again.
    """

    def __init__(self, error: GradwireError, until_s: float) -> None:
        self.error = error
        self.until_s = until_s
        self._status = encode_status(error).SerializeToString()

    def status(self, request_id: str) -> bytes:
        """Return the serialized status of one of them."""
        return add_request_id(self._status, request_id)


class Refusals:
    """What was refused a moment ago, to each identity by itself: another may not even know that there is such a program.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: Skeletons[dict[str, Refusal]] = Skeletons(_KNOWN_COUNT)
        self._until_s = 0.0

    def find(self, identity: str, message: Message) -> Refusal | None:
        """Return the answer to a serialized EvaluateRequest, if the like of it was refused a moment ago."""
        now_s = self._clock()
        if now_s >= self._until_s:  # as always where there is room
            return None
        found = self._known.find(message)
        refusal = None if found is None else found.get(identity)
        return refusal if refusal is not None and now_s < refusal.until_s else None

    def note(self, identity: str, message: bytes, error: GradwireError) -> None:
        """Take note of a serialized EvaluateRequest that fails; what is a matter of all that are like it says for how long."""
        refused_for_s = error.metadata.get("refused_for_s")
        if not isinstance(error, OverloadedError) or refused_for_s is None:
            return
        found = self._known.find(message)
        if found is None:
            skeleton = request_skeleton(message)
            if skeleton is None or any(start == end for start, end in skeleton.spans):  # elements may follow in chunks
                return
            found = {}
            self._known.put(skeleton, found)
        elif len(found) >= _IDENTITY_COUNT:
            found.clear()
        self._until_s = self._clock() + float(refused_for_s)
        found[identity] = Refusal(error, self._until_s)
