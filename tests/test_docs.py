"""What the pages say is so: their examples and commands run, their links lead somewhere, and what is generated is fresh."""

import doctest
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
ADDRESS = "127.0.0.1:50051"  # in the pages; here a free port takes its place
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = Path(sysconfig.get_path("scripts"))
PATIENCE_S = 120
SOURCES = [
    ROOT / "client" / "gradwire",
    ROOT / "client" / "gradwire_load",
    ROOT / "proto" / "gradwire_proto",
    *(ROOT / "server").glob("gradwire_*"),
]
WITH_EXAMPLES = sorted(
    path
    for folder in SOURCES
    for path in folder.rglob("*.py")
    if re.search(r"^ *>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def blocks(page, kind):
    """The fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands():
    """The shell commands of the README, in order: their words, and what stands behind or below them as a comment."""
    found, text = [], ""
    for line in "".join(blocks(README, "sh")).splitlines():
        text += line + "\n"
        try:
            words = shlex.split(text, comments=True)
        except ValueError:  # a quotation that ends on a later line
            continue
        if words:
            found.append((words, text.partition(" # ")[2].strip()))
        elif text.startswith("# "):
            found[-1] = (found[-1][0], found[-1][1] + text.removeprefix("# "))
        text = ""
    assert not text
    return found


def command(*names):
    """The only command of the README with a name: its words, and its comment."""
    (found,) = [pair for pair in commands() if pair[0][: len(names)] == list(names)]
    return found


@pytest.fixture(scope="module")
def address():
    """The address of the server that the README starts, on a free port."""
    words, comment = command("gradwire", "serve")
    assert comment == f"prints: listening on {ADDRESS}"
    words = [word.replace(ADDRESS, "127.0.0.1:0") for word in words]
    with subprocess.Popen([SCRIPTS / words[0], *words[1:]], stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("listening on 127.0.0.1:")
            yield line.removeprefix("listening on ").strip()
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def test_every_block_of_the_readme_is_of_a_kind_that_is_tested_below():
    kinds = re.findall(r"^```(\w*)\n.*?^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert set(kinds) == {"sh", "pycon", "json"}
    assert {words[0] for words, _ in commands()} == {"make", "pip", "gradwire", "buf", "docker"}
    assert len(blocks(README, "json")) == 1


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")], ids=name_of)
def test_examples_of_a_page_run(page, address):
    text = "\n".join(blocks(page, "pycon")).replace(ADDRESS, address)
    example = doctest.DocTestParser().get_doctest(text, {}, name_of(page), str(page), 0)
    assert example.examples
    report = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=report.append).failed == 0, "".join(report)


def test_the_terminal_prints_what_is_shown():
    words, shown = command("gradwire", "eval")
    done = subprocess.run([SCRIPTS / words[0], *words[1:]], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout == shown


def test_the_load_of_the_readme_runs(address):
    words, _ = command("gradwire", "load")
    more = ["--target", address, "--duration", "1", "--warmup", "0", "--quiet"]
    done = subprocess.run([SCRIPTS / words[0], *words[1:], *more], check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_serves_where_the_readme_says():
    words, comment = command("docker")
    assert words[1:3] == ["compose", "up"]
    assert ADDRESS in comment
    host, _, port = ADDRESS.partition(":")
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert f'- "{host}:${{GRADWIRE_PORT-{port}}}:50051"' in text


def test_make_targets_exist_and_are_run_before_a_change_lands():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (verbs,) = re.findall(r"^for verb in (.*); do$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert 'make "$verb"' in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    targets = [words[1:] for words, _ in commands() if words[0] == "make"]
    assert targets == [["demo"], ["test"]]
    for (target,) in targets:
        assert re.search(rf"^{target}: ", makefile, re.MULTILINE)
        assert target in verbs.split()
    assert "bin := .venv/bin\n" in makefile  # where the README says the command is


def test_pip_installs_the_checkout(tmp_path):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    installs = [words for words, _ in commands() if words[0] == "pip"]
    assert [words[2] for words in installs] == [".", ".[server]"]
    assert "server" in extras
    for number, words in enumerate(installs):
        folder = tmp_path / str(number)
        offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(folder)]
        subprocess.run([sys.executable, "-m", *words, *offline], cwd=ROOT, check=True, timeout=PATIENCE_S)
        assert {path.name for path in folder.iterdir()} >= {"gradwire", "gradwire_core", "gradwire_proto", "gradwire_server"}
        assert (folder / "bin" / "gradwire").exists()


def test_the_request_of_another_language_is_answered_as_shown(address):
    words, _ = command("buf")
    url, data = words[-3], words[-1]
    (shown,) = map(json.loads, blocks(README, "json"))
    assert words[-2] == "--data"
    assert answer_by_reflection(address, url.removeprefix(f"http://{ADDRESS}/"), data) == shown
    buf = shutil.which("buf", path=f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}")
    if buf:  # installed for `make check`
        line = [buf, *(word.replace(ADDRESS, address) for word in words[1:])]
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
        assert json.loads(done.stdout) == shown


def answer_by_reflection(address, path, data):
    """What a tool does that knows the server by reflection alone: a request in JSON, and its answer in JSON."""
    service, _, rpc = path.partition("/")
    with grpc.insecure_channel(address) as channel:
        method = DescriptorPool(ProtoReflectionDescriptorDatabase(channel)).FindServiceByName(service).FindMethodByName(rpc)
        request_class, response_class = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = channel.unary_unary(f"/{path}", request_class.SerializeToString, response_class.FromString)
        return json_format.MessageToDict(call(json_format.Parse(data, request_class()), timeout=PATIENCE_S))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def anchors(page):
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_files_that_architecture_names_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for cell in re.findall(r"^\|[^|]*\| (`[^|]*/[^|]*`) \|$", text, re.MULTILINE):
        folder = ROOT
        for name in re.findall(r"`([^`]+)`", cell):
            folder = (ROOT / name).parent if "/" in name else folder
            assert list(folder.glob(Path(name).name)), name
    for name in re.findall(r"`((?:\w+/)*\w+\.(?:py|proto))`", text):
        roots = (ROOT / folder for folder in ("client", "server", "proto"))
        assert (ROOT / name).exists() or any(path for root in roots for path in root.rglob(name)), name


def test_the_pictures_are_well_formed_and_load_nothing():
    for path in (ROOT / "docs").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        root = ET.fromstring(text)  # noqa: S314  # a picture of ours
        assert root.find("{http://www.w3.org/2000/svg}title") is not None
        assert not re.search(r"<script|href=(?!\"#)|@import|url\((?!#)", text)  # what a picture refers to is in it


def test_generated_pages_are_fresh():
    subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], check=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=name_of)
def test_examples_of_a_module_run(path):
    (root,) = [root for root in (ROOT / "client", ROOT / "server", ROOT / "proto") if path.is_relative_to(root)]
    module = path.relative_to(root).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    failed, count = doctest.testmod(importlib.import_module(module))
    assert count > 0
    assert failed == 0
