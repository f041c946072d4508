"""The functions a listing is compiled to: operations in a row, and loops over alike blocks.

A function keeps in registers what it computes, and writes to memory what is read there: by another function, or by a later block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gradwire_core.native.instructions import COPY, Statements, called
from gradwire_core.native.repeats import Repeat
from gradwire_core.types import Array


@dataclass(eq=False)
class Places:
    """What is known of places: of inputs, then constants, then what each operation computes.

    Attributes:
        base: the place of the first operation.
        literals: the texts of constants, by place.
        operations: names.
        operands: three places for each operation, -1 where there are fewer operands.
        is_truth: whether a place holds a truth value.
        is_kept: whether a place is read from memory, or always there.
        addresses: where a place that is kept stands in memory.
        functions: where the addresses of functions stand in memory.
        tables: definitions of tables of addresses.
    """

    base: int
    literals: dict[int, str]
    operations: Sequence[str]
    operands: Array
    is_truth: Sequence[bool]
    is_kept: Array
    addresses: Array
    functions: dict[str, int] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)

    def table(self, addresses: Array) -> str:
        """Return the name of a table."""
        name = f"@table{len(self.tables)}"
        entries = ", ".join([f"i32 {address}" for address in addresses.tolist()])
        self.tables.append(f"{name} = private constant [{len(addresses)} x i32] [{entries}]")
        return name

    def arrange(self, loops: Iterable[Loop]) -> int:
        """Give an address to each place that is kept; return how many there are. Behind them are those of functions.

        Alike blocks keep the same, and stand in memory one after the other; what the last one alone keeps stands behind them.
        """
        order = 2 * np.arange(len(self.is_kept))
        for loop in loops:
            start, stop = self.base + loop.start, self.base + loop.stop
            blocks = self.is_kept[start:stop].reshape(loop.repeat.count, -1)
            is_lasting = np.any(blocks[:-1], axis=0)
            blocks[:, is_lasting] = True
            order[start:stop].reshape(blocks.shape)[-1, ~is_lasting] = 2 * stop - 1
        kept = np.flatnonzero(self.is_kept)
        self.addresses = np.full(len(self.is_kept), -1)
        self.addresses[kept[np.argsort(order[kept], kind="stable")]] = np.arange(len(kept))
        self.functions = {name: address for address, name in enumerate(sorted(called(self.operations)), len(kept))}
        return len(kept)


class Straight:
    """Operations in a row."""

    def __init__(self, places: Places, start: int, stop: int) -> None:
        self._places = places
        self.start = start
        self.stop = stop

    def mark(self) -> None:
        """Mark what is read from memory."""
        operands = self._places.operands[self.start : self.stop]
        self._places.is_kept[operands[(operands >= 0) & (operands < self._places.base + self.start)]] = True

    def text(self) -> str:
        """Return the body of the function."""
        places, statements = self._places, Statements()
        statements.find(places.functions, places.operations[self.start : self.stop])
        names = dict(places.literals)
        for number, row in enumerate(places.operands[self.start : self.stop].tolist(), self.start):
            operation, place = places.operations[number], places.base + number
            for operand in row:
                if operand >= 0 and operand not in names:
                    names[operand] = statements.read(places.addresses[operand], is_truth=places.is_truth[operand])
            if operation == COPY:
                statements.write(places.addresses[place], names[row[0]], is_truth=places.is_truth[row[0]])
                continue
            names[place] = f"%v{place}"
            statements.run(operation, names[place], [names[operand] for operand in row if operand >= 0])
            if places.is_kept[place]:
                statements.write(places.addresses[place], names[place], is_truth=places.is_truth[place])
        return "\n".join([*statements.lines, "  ret void"])


class Loop:
    """Blocks of operations that are alike.

    An operand is computed in its block, or in the one before; or it is the same for all blocks; or it stands as far from the last
    one's for each block; or a table says where it is.
    """

    def __init__(self, places: Places, repeat: Repeat) -> None:
        self._places = places
        self.repeat = repeat
        self.start = repeat.start
        self.stop = repeat.stop
        self._own = places.base + repeat.start
        self._blocks = places.operands[repeat.start : repeat.stop].reshape(repeat.count, repeat.period, 3)
        first = self._first = self._blocks[0]
        step = self._step = self._blocks[1] - first
        self._is_along = (self._blocks == first + step * np.arange(repeat.count)[:, None, None]).all(axis=0)
        follows = self._is_along & (step == repeat.period)
        self._is_inside = follows & (first >= self._own)
        is_copy = np.array([name == COPY for name in places.operations[repeat.start : repeat.start + repeat.period]])
        self._is_carried = follows & (first < self._own) & (first >= self._own - repeat.period) & ~is_copy[:, None]
        self._is_fixed = self._is_along & (step == 0) & (first < self._own)

    @property
    def is_regular(self) -> bool:
        """Whether few operands need tables."""
        return 2 * int(np.count_nonzero(~self._is_along)) <= self.repeat.period

    def mark(self) -> None:
        """Mark what is read from memory."""
        is_kept, is_given, is_early = self._places.is_kept, self._first >= 0, self._is_carried | self._is_fixed
        is_kept[self._first[is_early & is_given]] = True
        is_kept[self._blocks[:, is_given & ~is_early & ~self._is_inside]] = True

    def text(self) -> str:
        """Return the body of the function."""
        before, body = Statements("b"), Statements()
        before.find(self._places.functions, self._places.operations[self.start : self.start + self.repeat.period])
        read = _Reader(self._places, body, self._carry(before, body), self._fix(before))
        last = self._add_block(body, read)
        return "\n".join([
            "entry:",
            *before.lines,
            "  br label %body",
            "body:",
            *body.lines,
            "  %next = add nuw nsw i64 %i, 1",
            f"  %more = icmp ult i64 %next, {self.repeat.count}",
            "  br i1 %more, label %body, label %exit",
            "exit:",
            *last.lines,
            "  ret void",
        ])  # fmt: skip

    def _carry(self, before: Statements, body: Statements) -> dict[int, str]:
        """Return the names of what the block before computed, by the places where the first block finds it."""
        body.lines.append("  %i = phi i64 [ 0, %entry ], [ %next, %body ]")
        names = {}
        for place in np.unique(self._first[self._is_carried]).tolist():
            is_truth, last = self._places.is_truth[place], place + self.repeat.period
            begin = before.read(self._places.addresses[place], is_truth=is_truth)
            names[place] = f"%c{place}"
            body.lines.append(f"  %c{place} = phi {'i1' if is_truth else 'double'} [ {begin}, %entry ], [ %v{last}, %body ]")
        return names

    def _fix(self, before: Statements) -> dict[int, str]:
        """Return the names of what is the same for all blocks, by place."""
        names = dict(self._places.literals)
        for place in np.unique(self._first[self._is_fixed & (self._first >= 0)]).tolist():
            if place not in names:
                names[place] = before.read(self._places.addresses[place], is_truth=self._places.is_truth[place])
        return names

    def _add_block(self, body: Statements, read: _Reader) -> Statements:
        """Add the operations of a block; return what follows the last."""
        places, repeat, after = self._places, self.repeat, Statements("e")
        for number in range(repeat.period):
            operation, place = places.operations[self.start + number], self._own + number
            columns = [column for column in range(3) if self._first[number, column] >= 0]
            operands = [self._operand((number, column), read, is_raw=operation == COPY) for column in columns]
            if operation == COPY:
                value, is_truth = operands[0]
            else:
                value, is_truth = f"%v{place}", places.is_truth[place]
                body.run(operation, value, [name for name, _ in operands])
            last = place + (repeat.count - 1) * repeat.period
            if places.is_kept[place]:
                first = places.addresses[place]
                body.write(read.address(first, places.addresses[place + repeat.period] - first), value, is_truth=is_truth)
            elif places.is_kept[last]:
                after.write(places.addresses[last], value, is_truth=is_truth)
        return after

    def _operand(self, at: tuple[int, int], read: _Reader, *, is_raw: bool) -> tuple[str, bool]:
        """Return the name of an operand, and whether it is a truth value; `is_raw` for what memory holds."""
        first = int(self._first[at])
        is_truth = self._places.is_truth[first]
        if self._is_inside[at]:
            return f"%v{first}", is_truth
        if self._is_carried[at]:
            return read.carried[first], is_truth
        if self._is_fixed[at]:
            return read.fixed[first], is_truth
        is_truth = is_truth and not is_raw
        return read.memory(self._places.addresses[self._blocks[:, at[0], at[1]]], is_truth=is_truth), is_truth


class _Reader:
    """Finds what a block takes from elsewhere.

    Args:
        places: what is known of places.
        body: where statements are added.
        carried: the names of what the block before computed, by the places where the first block finds it.
        fixed: the names of what is the same for all blocks, by place.
    """

    def __init__(self, places: Places, body: Statements, carried: dict[int, str], fixed: dict[int, str]) -> None:
        self.carried = carried
        self.fixed = fixed
        self._places = places
        self._body = body
        self._ways: dict[int, str] = {}
        self._read: dict[tuple[bytes, bool], str] = {}

    def address(self, first: int, step: int) -> str:
        """Return the address that moves by a step for each block."""
        if step not in self._ways:
            self._ways[step] = self._body.new(f"mul nsw i64 %i, {step}")
        return self._body.new(f"add nsw i64 {self._ways[step]}, {first}")

    def memory(self, addresses: Array, *, is_truth: bool) -> str:
        """Return what memory holds: at an address for each block."""
        key = (addresses.tobytes(), is_truth)
        if key not in self._read:
            steps = np.diff(addresses)
            if (steps == steps[0]).all():
                address = self.address(addresses[0], steps[0])
            else:
                entry = self._body.new(f"getelementptr inbounds i32, ptr {self._places.table(addresses)}, i64 %i")
                address = self._body.new(f"zext i32 {self._body.new(f'load i32, ptr {entry}')} to i64")
            self._read[key] = self._body.read(address, is_truth=is_truth)
        return self._read[key]
