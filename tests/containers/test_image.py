"""The image: what it is, what it lacks, and how it serves and stops."""

import errno
import hashlib
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import numpy as np
import pytest

import gradwire as gw
from gradwire_core import allocator
from tests.containers import engine as containers
from tests.containers.test_lock import pins
from tests.containers.test_sbom import complaint

LARGEST_BYTES = 450_000_000
LARGEST_NATIVE_BYTES = 650_000_000  # a third of it is LLVM
NATIVE = "gradwire:jit"
PARTS = "print(open('/opt/gradwire/sbom.cdx.json').read())"
TOOLS = ("pip", "pip3", "gcc", "cc", "g++", "make", "git", "curl", "ld")
BUSY_TICKS = 20
TICKS = """
import pathlib
print(sum(int(path.read_text().rpartition(")")[2].split()[11]) for path in pathlib.Path("/proc").glob("[0-9]*/stat")))
"""
CONTENT = """
import hashlib, pathlib
for path in sorted(pathlib.Path("/opt/gradwire").rglob("*")):
    if path.is_file() and not path.is_symlink():
        print(path, oct(path.stat().st_mode), hashlib.sha256(path.read_bytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def served(engine, image):
    """A container that tests leave as they found it."""
    with engine.running(image) as start:
        yield start()


def slope(address, **settings):
    """Ask for a gradient and check it."""
    with gw.connect(address, **settings) as client:
        x = np.linspace(0.0, 1.0, 5)
        assert np.allclose(client.grad(lambda x: np.sum(np.sin(x)))(x), np.cos(x))


def test_it_says_what_it_is_and_is_small(engine, image):
    found = engine.client.images.get(image)
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in found.labels.items()}
    assert labels["title"] == "gradwire"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == gw.__version__
    assert {"description", "revision"} <= set(labels)
    assert found.attrs["Size"] <= LARGEST_BYTES
    settings = found.attrs["Config"]
    assert settings["User"] == "65532:65532"
    assert settings["Entrypoint"] == ["gradwire", "serve"]
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["Healthcheck"]["Test"][:2] == ["CMD", "gradwire"]
    assert set(settings["ExposedPorts"]) == {containers.PORT}


def test_it_serves_without_any_setting(served):
    slope(served.address)


def test_it_runs_without_rights_on_a_root_it_cannot_write_to(served):
    status = served.python("print(open('/proc/1/status').read())").splitlines()
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert set(fields["Uid"].split()) == set(fields["Gid"].split()) == {"65532"}
    assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {0}
    assert fields["NoNewPrivs"] == "1"
    tried = "for path in ('/x', '/opt/gradwire/x', '/etc/x'):\n try: open(path, 'w')\n except OSError as e: print(e.errno)"
    assert served.python(tried).split() == [str(errno.EROFS)] * 3


def test_it_holds_nothing_to_build_or_install_with(served):
    assert not [name for name in TOOLS if served.has(name)]
    modules = "import importlib.util as u; print([n for n in ('pip', 'ensurepip', 'setuptools', 'hatchling') if u.find_spec(n)])"
    assert served.python(modules) == "[]"
    found = "from pathlib import Path; print([str(p) for n in ('pip', 'pip-*', 'ensurepip') for p in Path('/usr').rglob(n)])"
    assert served.python(found) == "[]"


def test_it_needs_no_shell(run):
    hidden = [f"/dev/null:{path}:ro" for path in ("/bin/dash", "/bin/bash")]
    container = run(volumes=hidden)
    assert "denied" in container.python("import subprocess\ntry: subprocess.run('true', shell=True)\nexcept OSError as e: print(e)")
    slope(container.address)


def test_it_stops_when_told_and_answers_what_it_has(run):
    container = run()
    x = np.eye(1000)
    with gw.connect(container.address, timeout_s=60.0) as client, ThreadPoolExecutor() as callers:
        power = client.evaluate(lambda x: reduce(np.matmul, [x] * 40))
        before = int(container.python(TICKS))
        answer = callers.submit(power, x)
        containers.wait_until(lambda: int(container.python(TICKS)) > before + BUSY_TICKS, what="work")
        assert container.stop() == 0
        assert np.array_equal(answer.result(), x)
    assert "drained all_finished=True" in container.logs()


def test_every_module_is_compiled_beforehand(served):
    text = "from pathlib import Path; print(*[p for p in Path('/opt/gradwire/lib').rglob('*.py') if not list((p.parent / "
    text += "'__pycache__').glob(p.stem + '.*.pyc'))])"
    assert served.python(text) == ""


def test_the_list_of_its_parts_is_valid_and_complete(served, needs):
    text = served.python(PARTS)
    assert not complaint(needs, text)
    listed = {each["purl"] for each in json.loads(text)["components"]}
    locked = pins((containers.ROOT / "deploy" / "requirements" / "server.txt").read_text(encoding="utf-8"))
    assert {purl for purl in listed if purl.startswith("pkg:pypi/")} == {
        f"pkg:pypi/{name}@{pin[0]}" for name, pin in locked.items()
    }
    assert any(purl.startswith("pkg:deb/") for purl in listed)


def test_the_allocator_is_told_what_workers_are_told(engine, image):
    told = dict(line.split("=", 1) for line in engine.client.images.get(image).attrs["Config"]["Env"])
    assert {name: value for name, value in told.items() if name.startswith("MALLOC_")} == allocator.VARIABLES


def test_a_second_build_gives_the_same_files(engine, served, run, tmp_path):
    containers.build(tmp_path / "again", "gradwire-again", "--no-cache")
    assert digest(run(image="gradwire-again")) == digest(served)


def test_another_image_brings_the_native_tier(engine, run, tmp_path):
    containers.build(tmp_path / "native", NATIVE, extras="server-jit")
    container = run(image=NATIVE)
    slope(container.address)
    listed = {each["name"] for each in json.loads(container.python(PARTS))["components"]}
    assert {"numba", "llvmlite"} <= listed
    assert not [name for name in TOOLS if container.has(name)]
    assert engine.client.images.get(NATIVE).attrs["Size"] <= LARGEST_NATIVE_BYTES


def test_only_extras_that_are_there_are_built():
    done = subprocess.run([containers.ROOT / "deploy" / "build", "more"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needed the name of a file in deploy/requirements, got more" in done.stderr


def digest(container):
    return hashlib.sha256(container.python(CONTENT).encode()).hexdigest()
