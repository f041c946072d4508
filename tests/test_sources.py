"""Nothing a client sends is run: what in the sources could run text, and what the only generator of code is made to write."""

from __future__ import annotations

import ast
import builtins
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import gradwire as gw
from gradwire_core import engine, executor
from gradwire_core.errors import GradwireError
from gradwire_core.kernels import cluster, floats
from gradwire_core.kernels import source as kernels_source
from gradwire_core.kernels.numbers import Numbers
from gradwire_core.kernels.tape import expand
from gradwire_core.native import compiler
from gradwire_core.native.instructions import TEMPLATES as INSTRUCTIONS
from gradwire_core.native.loops import Loops
from gradwire_core.native.templates import POWERS, TEMPLATES
from gradwire_core.ops import PRIMITIVES
from gradwire_core.program import Equation, Program, Var
from gradwire_core.types import TensorType
from gradwire_proto.program import decode_program, encode_program
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2
from gradwire_server.config import ServerConfig
from gradwire_server.frames import Frame, Kind
from gradwire_server.worker import Worker
from tests.server.requests import product, quick

ROOT = Path(__file__).parent.parent
SERVED = [
    path
    for folder in ("server/gradwire_core", "server/gradwire_server", "proto/gradwire_proto")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "v1" not in path.parts
]
RUNNERS = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
"""Built-in functions that run text, or ask for some."""
READERS = {
    "pickle",
    "_pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "code",
    "codeop",
    "runpy",
    "imp",
    "yaml",
}
"""Modules whose reading of bytes can run them."""
SYSTEM = {"subprocess", "pty", "ctypes", "cffi", "multiprocessing"}
METHODS = {"loads", "load", "evaluate", "re_evaluate", "fromfile", "memmap", "find_class", "sympify", "lambdify"}
"""Methods that read or run what they are given; `json.loads` reads data alone, and is not counted."""

ALLOWED = {
    ("gradwire_core/allocator.py", "ctypes"): "sets the thresholds of the C library",
    ("gradwire_core/kernels/calibration.py", "subprocess"): "measures beside: this Python, on programs of its own",
    ("gradwire_core/kernels/source.py", "exec"): "the generator, whose text is checked below",
    ("gradwire_core/kernels/source.py", "compile"): "the same",
    ("gradwire_core/native/apart.py", "subprocess"): "compiles loops and texts beside: this Python, and files named by digests",
    ("gradwire_core/native/compiler.py", "exec"): "what calls loops, whose text is checked below",
    ("gradwire_core/native/compiler.py", "compile"): "the same",
    ("gradwire_core/native/images.py", "ctypes"): "calls the machine code of such loops",
    ("gradwire_core/native/objects.py", "exec"): "loops, whose text is checked below",
    ("gradwire_core/native/objects.py", "compile"): "the same",
    ("gradwire_core/native/instructions.py", "ctypes"): "finds the addresses of functions of libm, by a table of names",
    ("gradwire_core/native/machine.py", "ctypes"): "calls the machine code of texts that are checked below",
    ("gradwire_core/native/pages.py", "ctypes"): "gives the pages of LLVM's code back",
    ("gradwire_core/source.py", "compile"): "the library's own kernels, for numpy_source, which no server calls",
    ("gradwire_proto/__main__.py", "subprocess"): "runs the generator of the messages, for developers",
    ("gradwire_server/memory.py", "ctypes"): "tells the kernel to end a worker with its front end",
    ("gradwire_server/tracing.py", "load"): "imports the exporter that the operator names",
}


def suspicions(text):
    """Yield what in a source could run text or bytes, by its name."""
    tree = ast.parse(text)
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    own |= {argument.arg for node in ast.walk(tree) if isinstance(node, ast.arguments) for argument in node.args}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in RUNNERS - own:
            yield node.id
        if isinstance(node, ast.Attribute):
            holder = node.value.id if isinstance(node.value, ast.Name) else ""
            if (
                (holder in {"builtins", "__builtins__"} and node.attr in RUNNERS)
                or (holder == "os" and re.match("system|popen|exec|spawn|posix_spawn", node.attr))
                or (holder not in {"json", "self"} and node.attr in METHODS)
            ):
                yield node.attr
        names = []
        if isinstance(node, ast.Import):
            names = [item.name for item in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (top for top in (name.partition(".")[0] for name in names) if top in READERS | SYSTEM)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and getattr(node.value, "value", True):
            yield "allow_pickle"


def test_nothing_served_runs_text_or_unpickles():
    found = {
        ("/".join(path.parts[len(folder.parts) :]), what)
        for folder in (ROOT / "server", ROOT / "proto")
        for path in SERVED
        if path.is_relative_to(folder)
        for what in suspicions(path.read_text(encoding="utf-8"))
    }
    assert len(SERVED) > 100
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    "text",
    [
        *("eval(x)", "builtins.exec(x)", "f = exec", "__import__(x)", "import pickle", "from marshal import loads"),
        *("numpy.load(f, allow_pickle=flag)", "numexpr.evaluate(x)", "os.system(x)", "import a, ctypes.util"),
    ],
)
def test_the_scan_finds_what_it_looks_for(text):
    assert [*suspicions(text)]


# -- generated source ----------------------------------------------------------------------------------------------------------

_is_numbered = re.compile(r"[vkcxybio]\d+").fullmatch
_OURS = {"make", "run", "None", "copy", "keep", "order", "s", "array", "copyto", "out", *PRIMITIVES}
_OURS |= {"address", "bool", "call", "give", "IndexError", "memory", "results", "room", "take", "_"}


def is_ours(name):
    """Whether a name is one of the templates', of a primitive, or made of an integer."""
    return name in _OURS or bool(_is_numbered(name))


def check_generated(text):
    """Check that a generated source holds our templates and integer names alone."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            assert is_ours(node.id), node.id
        elif isinstance(node, (ast.arg, ast.keyword)):
            assert is_ours(node.arg), node.arg
        elif isinstance(node, ast.FunctionDef):
            assert node.name in {"make", "run"}
        elif isinstance(node, ast.Constant):
            assert node.value is None or type(node.value) is int or node.value == 1.0
        elif isinstance(node, ast.Attribute):
            assert node.attr in {"tolist", "copy", "astype"}
            assert isinstance(node.value, ast.Name)
        elif isinstance(node, ast.Subscript):
            assert isinstance(node.slice, (ast.Constant, ast.Tuple))
            assert isinstance(node.slice, ast.Constant) or not node.slice.elts
        else:
            assert not isinstance(node, (ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Lambda, ast.Global)), node


@pytest.fixture
def generated(monkeypatch):
    """The sources that are compiled while a test runs, each checked."""
    texts = []

    def spy(text, *args, **kwargs):
        check_generated(text)
        texts.append(text)
        return builtins.compile(text, *args, **kwargs)

    monkeypatch.setattr(kernels_source, "compile", spy, raising=False)
    return texts


def single(primitive, sample):
    inputs = tuple(Var(TensorType.of(np.asarray(array))) for array in sample.operands)
    results = tuple(map(Var, primitive.infer(*(item.type for item in inputs), **sample.params)))
    return Program(inputs, (Equation(primitive, inputs, sample.params, results),), results)


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("name", sorted(PRIMITIVES))
def test_the_source_of_every_primitive_is_made_of_templates_and_integers(name, chunk, generated, monkeypatch):
    if chunk:
        for module in (executor, floats):
            monkeypatch.setattr(module, "STRAIGHT", 0)
            monkeypatch.setattr(module, "CHUNK", chunk)
    for sample in PRIMITIVES[name].samples(np.random.default_rng(0)):
        run = engine.compile(single(PRIMITIVES[name], sample), [engine.Output()])
        for _ in range(3):
            run.run(sample.operands, [()])
    assert generated or chunk


def test_the_sources_of_clusters_are_made_of_templates_and_integers(generated, monkeypatch):
    monkeypatch.setattr(cluster, "LEAST_BYTES", 1)
    x = np.linspace(0.0, 2.0, 2**17)
    program = gw.trace(lambda x: np.where(x > 1.25, np.sin(x), x * 12345.5) + np.exp(x) ** 2, x)
    engine.compile(program, [engine.Output()]).run([x])
    assert any("out=" in text for text in generated)
    assert not any("12345" in text for text in generated)


_WORDS = {
    "run",
    "range",
    "min",
    "clear",
    "total",
    "add_finite",
    "bad",
    "begin",
    "count",
    "part",
    "before",
    "after",
    "rest",
}
_WORDS |= {"rest", "j", "U", "largest_angle"}
_CALLING = {"run", "row_major", "empty", "zeros", "bool_", "item", "reshape", "transpose", "flags", "num", "out", "fill", "float"}


def check_loops(text, words, numbered, attributes=()):
    """Check that a source of loops holds templates and numbers alone."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Name, ast.arg)):
            name = node.id if isinstance(node, ast.Name) else node.arg
            assert name in words or re.fullmatch(numbered, name), name
        elif isinstance(node, ast.Constant):
            assert node.value is None or type(node.value) in {int, bool} or node.value in {0.0, 1.0, -1.0}
        elif isinstance(node, ast.Attribute):
            assert node.attr in attributes
        else:
            assert not isinstance(node, (ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Lambda, ast.Global)), node


def test_the_sources_of_loops_are_made_of_templates_and_integers(monkeypatch):
    def function(x, row):
        padded = np.pad(x[:, 1:], ((0, 0), (0, 1))) * x
        return np.sin(x) * 12345.5 + row > 1.0, np.sum(np.exp(x * row) ** 1.5, axis=0), padded

    sources, calls = [], []
    monkeypatch.setattr(compiler, "make_call", lambda text, bound: calls.append(text))
    program = gw.trace(function, np.ones((4, 5)), np.ones(5))
    Loops(program, lambda source, signature: sources.append(source), ((1, 0), (1, 0), (0,)))
    (text,), (calling,) = sources, calls
    written = [*POWERS.values(), *[part for template in TEMPLATES.values() for part in (template.text, template.bad)]]
    words = _WORDS | set(re.findall(r"[a-z_]+[a-z_0-9]*", "".join(written)))
    check_loops(text, words, r"[nvaotci]\d+")
    check_loops(calling, _CALLING, r"[kxy]\d+", _CALLING)


def of_numbers(x, y):
    """Some of each: steps that are alike, and others; numbers and truth values."""
    kept = []
    for _ in range(150):
        x = np.tanh(x * 12345.5) + y[0]
        kept.append(x)
    total = y[1]
    for number in range(len(kept)):
        total = np.sin(total) + kept[number * number % 150] * kept[-number]
    return np.where(total > y[2], np.hypot(x, total), x), total > 0.5


def test_the_texts_of_machine_code_are_made_of_templates_and_numbers(generated):
    tape = expand(gw.trace(of_numbers, np.float64(0.5), np.ones(3)))
    texts = []
    Numbers.of(tape, lambda text: texts.append(text) or SimpleNamespace(run=None, run_briefly=None))
    (text,) = texts
    assert "phi" in text
    assert "@table0" in text
    assert generated
    words = set(re.findall(r"[a-z_][a-z_0-9]*", "".join(itertools.chain(*INSTRUCTIONS.values())).replace("{r}", "")))
    words |= {"add", "body", "br", "constant", "declare", "define", "entry", "exit", "getelementptr", "i"}
    words |= {"i32", "i64", "icmp", "inbounds", "internal", "label", "load", "m", "memory", "more"}
    words |= {"mul", "next", "none", "nounwind", "nsw", "nuw", "phi", "private", "ptr", "ret"}
    words |= {"run", "store", "to", "uitofp", "ult", "void", "willreturn", "x", "zext"}
    for word in re.findall(r"[A-Za-z_][A-Za-z_0-9]*", re.sub(r"\b0x[0-9A-F]{16}\b", "", text)):
        assert word in words or re.fullmatch(r"[vtbce]\d+[a-g]?|part\d+|table\d+", word), word
    assert set(re.sub(r"\w", "", text)) <= set(" \n%@=,()[]{}.:-")


def test_the_check_of_sources_finds_what_it_looks_for():
    for text in ("os", "v1.x", "__import__('os')", "'text'", "v1[v2]", "lambda: v1", "f'{v1}'", "import os"):
        with pytest.raises(AssertionError):
            check_generated(text)


HOSTILE = [
    "__import__('os').abort()",
    "k0); import os; (",
    "v0\n    raise SystemExit",
    "os",
    "{0.__class__}",
    "%(x)s",
    "\u2028",
    "a" * 10_000,
]


def strings_of(message, path=()):
    """Yield each place in a message where a client may write a text: what holds it, its field, and a key or a place in it."""
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in list(value):
                yield value, None, key
                yield from strings_of(value[key])
        elif field.message_type is not None:
            for item in value if not hasattr(value, "ListFields") else [value]:
                yield from strings_of(item)
        elif field.type == field.TYPE_STRING:
            yield message, field, value


def sprinkled(request):
    """Yield copies of a request, each with a hostile text in another place."""
    count = len(list(strings_of(request)))
    for number in range(count):
        for text in HOSTILE:
            copy = type(request).FromString(request.SerializeToString())
            where, field, key = list(strings_of(copy))[number]
            if field is None:
                where[text].CopyFrom(where[key])
                del where[key]
            elif not isinstance(key, str):
                getattr(where, field.name)[0] = text
            else:
                setattr(where, field.name, text)
            yield copy


def test_a_hostile_text_reaches_no_source_and_no_error_of_ours(generated, caplog):
    worker = Worker(ServerConfig())
    einsum, scan = (
        pb.EvaluateRequest(
            program=encode_program(single(PRIMITIVES[name], next(iter(PRIMITIVES[name].samples(np.random.default_rng(0))))))
        )
        for name in ("einsum", "scan")
    )
    refused = 0
    for request in (quick(), einsum, scan, pb.EvaluateRequest(program_name="programs/x")):
        if not request.outputs:
            request.outputs.add()
        for hostile in sprinkled(request):
            for kind, message in (
                (Kind.EVALUATE, hostile),
                (Kind.CREATE_PROGRAM, pb.CreateProgramRequest(program=hostile.program)),
            ):
                answer = worker.answer(Frame(kind, (b"id", message.SerializeToString())))
                refused += answer.kind is Kind.ERROR
                assert b"INTERNAL" not in b"".join(answer.parts), hostile
    names = pb.ExplainRequest(program=encode_program(product()), input_names=["x"])
    for hostile in sprinkled(names):
        assert worker.answer(Frame(Kind.EXPLAIN, (b"id", hostile.SerializeToString()))).kind in {Kind.ERROR, Kind.RESULT}
    assert refused > 50
    assert "Traceback" not in caplog.text
    assert not any(text in source for text in HOSTILE for source in generated if len(text) > 2)


def test_names_of_primitives_and_params_are_looked_up_never_made():
    program = encode_program(product())
    for text in ("__class__", "__init__", "kernel", "numpy.sin", "os.system", "../sin"):
        hostile = program_pb2.Program.FromString(program.SerializeToString())
        hostile.equations[0].primitive = text
        with pytest.raises(GradwireError, match=re.escape(text)):
            decode_program(hostile)
