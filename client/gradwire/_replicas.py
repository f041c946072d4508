"""The replicas behind a target, what a client knows of each, and which is asked next. Nothing here does I/O.

A target is one address, or several: a name of the DNS, `dns:///NAME:PORT`, or a list, `ipv4:127.0.0.1:1,127.0.0.1:2`. Those are
asked in turn. One that could not be reached rests until it can be, one that sends callers away for as long as it said.
"""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

KNOWN_LIMIT = 4096  # names of programs, and of tensors, that a replica is taken to hold
RESOLVE_AFTER_S = 30.0
RESOLVE_LOST_AFTER_S = 1.0  # while one of them cannot be reached
LEAVE_AFTER_S = 1.0
AGE_JITTER = 0.2


class Names:
    """Names of what a replica is taken to hold; the oldest are forgotten."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        self._names[name] = None
        if len(self._names) > KNOWN_LIMIT:
            self._names.popitem(last=False)

    def discard(self, name: str) -> None:
        self._names.pop(name, None)


class Replica:
    """What a client knows of one replica.

    Attributes:
        address: where it is, as gRPC reads it.
        programs: the names of programs that it is taken to hold.
        tensors: the names of tensors that it is taken to hold.
        arriving: the names of tensors on their way to it.
        has_streams: whether it takes requests over streams, as far as is known.
        has_tensors: whether it stores tensors, as far as is known.
        has_answered: whether it was there once.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.programs = Names()
        self.tensors = Names()
        self.arriving: set[str] = set()
        self.has_streams = True
        self.has_tensors = True
        self.has_answered = False
        self._rests_until_s = 0.0
        self._left_s = -math.inf
        self._old_s = math.inf

    @property
    def is_resting(self) -> bool:
        """Whether others are asked before it."""
        return self._rests_until_s > time.monotonic()

    def rest(self, seconds: float = math.inf) -> None:
        """Let others be asked before it for a while."""
        self._rests_until_s = time.monotonic() + seconds

    def wake(self) -> None:
        """Let it be asked again."""
        self._rests_until_s = 0.0

    def may_be_left(self) -> bool:
        """Whether to open another connection to it: not if that was done just now."""
        now_s = time.monotonic()
        if now_s < self._left_s + LEAVE_AFTER_S:
            return False
        self._left_s = now_s
        return True

    def is_old(self, age_s: float) -> bool:
        """Whether to replace the connection to it, for it has an age, less up to a fifth by chance; once at that age.

        It is born when this is first asked. Chance keeps clients that began together apart.
        """
        now_s = time.monotonic()
        if now_s < self._old_s < math.inf:
            return False
        is_first = self._old_s == math.inf
        self._old_s = now_s + age_s * random.uniform(1 - AGE_JITTER, 1)  # noqa: S311  # jitter
        return not is_first

    def __repr__(self) -> str:
        return f"<Replica at {self.address}>"


class Name(NamedTuple):
    """A name of the DNS that may stand for several addresses, and the port."""

    host: str
    port: str


class Replicas:
    """The replicas behind a target.

    Attributes:
        name: what has to be looked up for their addresses; None where the target tells them.
    """

    def __init__(self, target: str) -> None:
        self.name = _name(target)
        self._lock = threading.Lock()
        self._turn = itertools.count()
        self._resolved_s = -math.inf if self.name else math.inf
        self._found: tuple[Replica, ...] = () if self.name else tuple(map(Replica, _addresses(target)))

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._found)

    def pick(self) -> Replica:
        """Return the replica that is asked next: the next in turn that does not rest, if there is one."""
        if len(self._found) == 1:
            return self._found[0]
        turn = next(self._turn)
        rested = [item for item in self._found if not item.is_resting] or self._found
        return rested[turn % len(rested)]

    @property
    def are_stale(self) -> bool:
        """Whether the addresses should be looked up, for the first time or again."""
        age_s = time.monotonic() - self._resolved_s
        return age_s > RESOLVE_AFTER_S or (age_s > RESOLVE_LOST_AFTER_S and any(item.is_resting for item in self._found))

    def resolve(self, addresses: Sequence[str]) -> list[Replica]:
        """Take the addresses that were looked up; return the replicas that are new. What is known of others is kept."""
        with self._lock:
            self._resolved_s = time.monotonic()
            kept = {item.address: item for item in self._found}
            found = tuple(kept.get(address) or Replica(address) for address in dict.fromkeys(addresses))
            self._found = found or self._found
            return [item for item in found if item.address not in kept]

    def postpone(self) -> None:
        """Look the addresses up later: that is being done, or was in vain."""
        self._resolved_s = time.monotonic()


def _name(target: str) -> Name | None:
    """Return what a target asks the DNS for, if it may give several addresses; through a name server of its own gRPC asks."""
    if not target.startswith("dns:///"):
        return None
    host, colon, port = target.removeprefix("dns:///").rpartition(":")
    return Name(host.strip("[]"), port) if colon and host and port.isdecimal() else None


def _addresses(target: str) -> Sequence[str]:
    """Return the addresses of a target that tells them."""
    scheme, _, rest = target.partition(":")
    if scheme not in {"ipv4", "ipv6"} or "," not in rest:
        return (target,)
    return tuple(f"{scheme}:{item}" for item in rest.removeprefix("//").removeprefix("/").split(","))
