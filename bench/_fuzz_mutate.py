"""Mutations of valid calls: of their messages by what protobuf knows of them, of their bytes, and of the order of a stream."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from _fuzz_corpus import Case
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

INTEGERS = [
    *(0, 1, -1, 2, 3, 7, 16, 17, 52, 53, 64, 65, 255, 256, 65_535, 65_536, 10**6, 10**9, 10**12, 10**18),
    *(2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**62, 2**63 - 1, -(2**63)),
]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-300, 5e-324, 1e308, float("nan"), float("inf"), float("-inf")]
TEXTS = [
    *("", "x", "\0", "é" * 40, "a" * 2000, "programs/", "programs/" + "0" * 64, "tensors/" + "f" * 64, "programs/" + "G" * 64),
    *("../../etc/passwd", "__class__", "{0.__class__}", "%s%n", "import os", "lambda: 0", "ij,jk->ik", "ii->", "->", "...", "\n"),
    *("sin", "scan", "cond", "custom", "einsum", "inv", "take", "lower", "constant"),
]
NUMBERS_OF_BYTES = (0, 1, 7, 8, 9, 64, 4096)
MOST_COPIES = 60
DEPTHS = (1, 8, 15, 16, 17, 40, 120)

_KINDS = {number: np.dtype(code) for number, code in enumerate(("<f8", "<f4", "<c16", "<c8", "<i8", "<i4", "?"), 1)}
_EDGES = {
    "f": [*FLOATS, 2.0, 0.5, -0.5, 1e5, 1e10, 1e-10, 171.0, 30.0, -30.0, 1 - 2**-53],
    "c": [*FLOATS, 1j, complex("nan"), complex("inf"), 1e300j, -1 + 0j],
    "i": [0, 1, -1, 2, 3, 100, -100, 2**31 - 1, -(2**31)],
    "b": [True, False],
}

_INTEGER_TYPES = {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_INT32}
_INT32 = 2**31


class Mutator:
    """Draws mutated calls from a corpus; the same seed and number give the same call.

    Args:
        cases: valid calls.
        seed: of all drawing.
        rpcs: the rpcs to call.
    """

    def __init__(self, cases: Sequence[Case], seed: int, rpcs: Sequence[str]) -> None:
        self._weights = [WEIGHTS[rpc] for rpc in rpcs]
        self._rpcs = rpcs
        self._by_rpc: dict[str, list[Case]] = defaultdict(list)
        for case in cases:
            self._by_rpc[case.rpc].append(case)
        self._seed = seed
        self._donors: dict[str, list[Message]] = defaultdict(list)
        for case in cases:
            for message in case.messages:
                self._collect(message)

    def _collect(self, message: Message) -> None:
        found = self._donors[message.DESCRIPTOR.full_name]
        if len(found) < 3000:
            found.append(message)
        for child in _children(message):
            self._collect(child)

    def call(self, number: int) -> tuple[str, list[bytes], str]:
        """Return the mutated call of a number: its rpc, the serialized messages, and what was done to which."""
        rng = random.Random(f"{self._seed}:{number}")
        rpc = rng.choices(self._rpcs, self._weights)[0]
        case = rng.choice(self._by_rpc[rpc])
        kind = rng.choices(("structure", "values", "bytes", "random"), (10, 6, 4, 1))[0]
        if kind == "random":
            return rpc, [rng.randbytes(rng.choice((0, 1, 3, 20, 200, 2000))) for _ in case.messages[:3]], f"random for {rpc}"
        messages = [message.__deepcopy__({}) for message in case.messages]
        done = self._restructure(rng, messages) if kind == "structure" or rng.random() < 0.2 else []
        if kind == "values":
            done += self._revalue(rng, messages)
        contents = [message.SerializeToString() for message in messages]
        if kind == "bytes":
            done += [self._scramble(rng, contents) for _ in range(rng.choice((1, 1, 2, 4)))]
        return rpc, contents, f"{case.origin}: {'; '.join(done)}"

    def _restructure(self, rng: random.Random, messages: list[Message]) -> list[str]:
        done = []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if len(messages) > 1 and rng.random() < 0.3:
                done.append(_reorder(rng, messages))
            else:
                done.append(self._change(rng, rng.choice(messages)))
        return done

    def _revalue(self, rng: random.Random, messages: list[Message]) -> list[str]:
        """Keep every type, and change what it leaves open: the elements of tensors, and what is asked of the program."""
        found = [part for message in messages for part in _parts(message)]
        tensors = [part for part in found if part.DESCRIPTOR.full_name == "gradwire.v1.Tensor" and part.data]
        outputs = [part for part in found if part.DESCRIPTOR.full_name == "gradwire.v1.Output"]
        done = []
        for tensor in rng.sample(tensors, min(len(tensors), rng.choice((1, 1, 2, 3)))):
            tensor.data = _elements(rng, tensor)
            done.append("elements replaced")
        if outputs and (rng.random() < 0.4 or not done):
            output = rng.choice(outputs)
            del output.transforms[:]
            output.transforms.extend(rng.choice(self._donors["gradwire.v1.Transform"]) for _ in range(rng.randrange(4)))
            output.layout = rng.choice((0, 0, 1, 2, 3))
            done.append("transforms replaced")
        return done

    def _change(self, rng: random.Random, message: Message) -> str:
        """Change one field somewhere within a message."""
        while True:
            children = _children(message)
            if not children or rng.random() < 0.25:
                break
            message = rng.choice(children)
        if not message.DESCRIPTOR.fields:
            return f"{message.DESCRIPTOR.name} as it is"
        field = rng.choice(message.DESCRIPTOR.fields)
        where = f"{message.DESCRIPTOR.name}.{field.name}"
        if _is_map(field):
            return f"{where} {self._change_map(rng, getattr(message, field.name))}"
        if field.is_repeated:
            return f"{where} {self._change_items(rng, field, getattr(message, field.name))}"
        if field.message_type is not None:
            return f"{where} {self._change_part(rng, field, message)}"
        if rng.random() < 0.1:
            message.ClearField(field.name)
            return f"{where} cleared"
        value = _value(rng, field, getattr(message, field.name))
        setattr(message, field.name, value)
        return f"{where} = {str(value)[:40]!r}"

    def _change_part(self, rng: random.Random, field: FieldDescriptor, message: Message) -> str:
        choice = rng.random()
        if choice < 0.3:
            message.ClearField(field.name)
            return "cleared"
        part = getattr(message, field.name)
        if choice < 0.45:
            part.SetInParent()
            return "set"
        if choice < 0.6 and field.message_type.full_name == "gradwire.v1.ParamList":
            depth = rng.choice(DEPTHS)
            _nest(part, depth)
            return f"nested {depth} deep"
        part.CopyFrom(self._donor(rng, field))
        return "replaced"

    def _donor(self, rng: random.Random, field: FieldDescriptor) -> Message:
        donors = self._donors.get(field.message_type.full_name)
        if donors:
            return rng.choice(donors)
        made: Message = field.message_type._concrete_class()
        return made

    def _change_items(self, rng: random.Random, field: FieldDescriptor, items: Any) -> str:
        choice, count = rng.choice(("delete", "copy", "many", "clear", "add", "change")), len(items)
        place = rng.randrange(count) if count else 0
        if choice == "delete" and count:
            del items[place]
        elif choice in ("copy", "many") and count:
            copies = 1 if choice == "copy" else rng.randrange(2, MOST_COPIES)
            items.extend([_copied(items[place])] * copies)
        elif choice == "clear":
            del items[:]
        elif choice == "change" and count and field.message_type is None:
            items[place] = _value(rng, field, items[place])
        elif field.message_type is None:
            items.append(_value(rng, field, items[place] if count else None))
        else:
            items.add().CopyFrom(self._donor(rng, field))
        return choice

    def _change_map(self, rng: random.Random, entries: Any) -> str:
        keys = sorted(entries)
        if keys and rng.random() < 0.3:
            del entries[rng.choice(keys)]
            return "without an entry"
        name = rng.choice([*keys, *TEXTS])
        entries[name].CopyFrom(self._params(rng))
        return f"[{name[:40]!r}] replaced"

    def _params(self, rng: random.Random) -> Message:
        return rng.choice(self._donors["gradwire.v1.Param"])

    def _scramble(self, rng: random.Random, contents: list[bytes]) -> str:
        place = rng.randrange(len(contents))
        done, contents[place] = rng.choice(_SCRAMBLES)(rng, contents[place])
        return done


WEIGHTS = {
    "Evaluate": 46,
    "EvaluateStream": 20,
    "CreateTensor": 8,
    "CreateProgram": 8,
    "Differentiate": 8,
    "Explain": 6,
    "GetProgram": 1,
    "DeleteProgram": 1,
    "DeleteTensor": 1,
    "ListPrograms": 1,
    "GetCapabilities": 0.5,
}


def _parts(message: Message) -> list[Message]:
    """Return a message and all that it holds, at any depth."""
    found = [message]
    for part in found:
        found += _children(part)
    return found


def _elements(rng: random.Random, tensor: Any) -> bytes:
    """Return as many elements as a tensor has, with edges of the dtype among them."""
    kind = _KINDS.get(tensor.dtype)
    if kind is None or len(tensor.data) % kind.itemsize:
        return rng.randbytes(len(tensor.data))
    array = np.frombuffer(tensor.data, kind).copy()
    count = array.size if rng.random() < 0.3 else 1
    same = rng.random() < 0.5
    value = rng.choice(_EDGES[kind.kind])
    with np.errstate(all="ignore"):
        for place in rng.sample(range(array.size), min(count, array.size, 64)):
            array[place] = value if same else rng.choice(_EDGES[kind.kind])
    return array.tobytes()


def _children(message: Message) -> list[Message]:
    """Return the messages that a message holds."""
    found: list[Message] = []
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if _is_map(field):
            found += [value[key] for key in value]
        elif field.is_repeated:
            found += value
        else:
            found.append(value)
    return found


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _value(rng: random.Random, field: FieldDescriptor, old: Any) -> Any:
    """Return a value for a field: near the old one, or at an edge of what there is."""
    if field.type in _INTEGER_TYPES:
        nearby = [] if old is None else [old + 1, old - 1, -old, 2 * old]
        return _clipped(rng.choice([*INTEGERS, *nearby, *nearby]), 2**63)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _clipped(rng.choice([*range(12), -1, 10**6]), _INT32)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return not old
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return rng.choice(FLOATS)
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(TEXTS)
    return _bytes(rng, old or b"")


def _clipped(value: int, bound: int) -> int:
    return max(-bound, min(bound - 1, value))


def _bytes(rng: random.Random, old: bytes) -> bytes:
    """Return other bytes: shorter or longer by one or by all, of NaNs, at random."""
    size = len(old)
    return rng.choice(
        [
            b"",
            old[:-1],
            old + b"\0",
            old + old,
            b"\xff" * size,
            rng.randbytes(size),
            rng.randbytes(rng.choice(NUMBERS_OF_BYTES)),
            old[: size // 2],
        ]
    )


def _copied(item: Any) -> Any:
    return item.__deepcopy__({}) if isinstance(item, Message) else item


def _nest(part: Any, depth: int) -> None:
    for _ in range(depth):
        part = part.items.add().list_value
    part.SetInParent()


def _reorder(rng: random.Random, messages: list[Message]) -> str:
    """Change a stream as a whole: a message is lost, comes twice, early, late, or with all that follow it missing."""
    place, other = rng.randrange(len(messages)), rng.randrange(len(messages))
    choice = rng.choice(("lost", "twice", "moved", "ended", "many"))
    if choice == "lost":
        del messages[place]
    elif choice == "twice":
        messages.insert(other, _copied(messages[place]))
    elif choice == "moved":
        messages.insert(other, messages.pop(place))
    elif choice == "ended":
        del messages[place + 1 :]
    else:
        messages[place:place] = [_copied(messages[place]) for _ in range(rng.randrange(2, MOST_COPIES))]
    return f"message {place} {choice}"


# -- bytes -------------------------------------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _flip(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return "bits flipped", bytes(changed)


def _overwrite(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    changed = bytearray(content)
    if changed:
        changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return "byte overwritten", bytes(changed)


def _cut(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    return "cut", content[: rng.randrange(len(content) + 1)]


def _without(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return "part removed", content[:begin] + content[end:]


def _repeated(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return "part repeated", content[:end] + content[begin:]


def _inserted(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    place = rng.randrange(len(content) + 1)
    return "bytes inserted", content[:place] + rng.randbytes(rng.choice((1, 2, 8, 100))) + content[place:]


def _field(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Append or insert a field of any number and kind: unknown, a group, longer than what follows, with a number of ten bytes."""
    kind, number = rng.randrange(8), rng.choice((1, 2, 3, 4, 5, 6, 7, 15, 16, 1000, 2**29 - 1, 2**29))
    bodies = [
        _varint(rng.choice((0, 1, 2**63, 2**64 - 1))),
        b"\xff" * rng.choice((9, 10, 11)),
        _varint(rng.choice((0, 1, 5, 2**31, 2**40))) + b"abcde",
        rng.randbytes(8),
        b"",
    ]
    place = rng.choice((0, len(content), rng.randrange(len(content) + 1)))
    return "field put in", content[:place] + _varint(number << 3 | kind) + rng.choice(bodies) + content[place:]


def _deep(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Append a field 2 within a field 2, hundreds deep, or joined messages within such."""
    tag, inner = rng.choice((b"\x12", b"\x3a")), b""
    for _ in range(rng.choice((20, 99, 101, 500))):
        inner = tag + _varint(len(inner)) + inner
    return "deep", content + inner


def _joined(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Make a message one of several that are joined, of many more than may be, or of copies of itself."""
    one = b"\x3a" + _varint(len(content)) + content
    others = rng.choice((b"", b"\x3a\x00", b"\x3a\x02\x22\x00", one)) * rng.choice((0, 1, 7, 300, 3000))
    return "joined", one + others[: 2**20]


_SCRAMBLES: Iterable[Callable[[random.Random, bytes], tuple[str, bytes]]] = (
    _flip, _flip, _overwrite, _overwrite, _cut, _without, _repeated, _inserted, _field, _deep, _joined,
)  # fmt: skip
