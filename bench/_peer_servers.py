"""The peers of the service: installed into environments of their own, started, and asked in the encoding that is best for each.

Each serves the same hand-written NumPy, so that what differs is the serving. Tesseract and UM-Bridge are asked for the value and
for the gradient by two calls, as they have no single one.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _generator import Target
from _servers import PATIENCE_S, environment, free_port, is_listening

HERE = Path(__file__).parent
JSON = "Content-Type: application/json\r\n"
LAYER = "layer"
SIZES = (10, 1000, 100_000)


@dataclass(frozen=True)
class Peer:
    """A peer: what is installed, how it is started, and what it is sent.

    Attributes:
        name: of the peer.
        requirement: what pip installs.
        command: returns the command that serves on a port, given the folder of its environment and one for what it writes.
        targets: returns what asks for a workload, the size of Rosenbrock's function or LAYER, in each encoding.
    """

    name: str
    requirement: str
    command: Callable[[Path, int, Path], list[str]]
    targets: Callable[[str, int | str, Path], list[Target]]


def install(peer: Peer, folder: Path) -> Path:
    """Make the environment of a peer, once, and return its folder."""
    home = folder / peer.name.lower().replace(" ", "-")
    stamp = home / "installed"
    if not (stamp.exists() and stamp.read_text() == peer.requirement):
        print(f"installing {peer.requirement} into {home}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run(
            [home / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", peer.requirement], check=True
        )
        stamp.write_text(peer.requirement)
    return home


def version(peer: Peer, home: Path) -> str:
    """Return the version that is installed."""
    name = peer.requirement.partition("[")[0].partition("=")[0]
    script = f"import importlib.metadata as m; print(m.version({name!r}))"
    return subprocess.run([home / "bin/python", "-c", script], capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def serving(peer: Peer, home: Path) -> Iterator[Callable[[int | str], list[Target]]]:
    """Run the server of a peer, and yield what makes the targets of a workload."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as complaints:
        environ = environment() | {"PYTHONPATH": str(HERE), "TESSERACT_API_PATH": str(HERE / "_peer_tesseract.py")}
        popen = subprocess.Popen(
            peer.command(home, port, Path(folder)), env=environ, cwd=folder, stdout=complaints, stderr=subprocess.STDOUT
        )
        try:
            end_s = time.monotonic() + PATIENCE_S
            while not is_listening(address):
                if popen.poll() is not None or time.monotonic() > end_s:
                    complaints.seek(0)
                    raise RuntimeError(f"{peer.name}: did not start: {complaints.read()[-2000:].decode()}")
                time.sleep(0.1)
            yield lambda workload: peer.targets(address, workload, Path(folder))
        finally:
            popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(PATIENCE_S)
            popen.kill()


def point(workload: int | str) -> np.ndarray:
    """Return the point at which a workload is asked."""
    return np.linspace(-1.0, 1.0, 100 if workload == LAYER else int(workload))


# -- Tesseract ---------------------------------------------------------------------------------------------------------------


def _tesseract(address: str, workload: int | str, _folder: Path) -> list[Target]:
    x, is_layer = point(workload), workload == LAYER
    plain = [] if x.size > 10_000 else [("JSON", x.tolist(), "application/json")]
    coded = {
        "object_type": "array",
        "shape": x.shape,
        "dtype": "float64",
        "data": {"buffer": base64.b64encode(x.tobytes()).decode(), "encoding": "base64"},
    }
    found = []
    for encoding, given, accept in [("base64", coded, "application/json+base64"), *plain]:
        inputs = {"x": given, "is_layer": is_layer}
        bodies = [{"inputs": inputs}, {"inputs": inputs, "jac_inputs": ["x"], "jac_outputs": ["y"]}]
        paths = ["/apply", "/jacobian"]
        chosen = slice(1 if is_layer else 0, None)
        requests = tuple(json.dumps(body).encode() for body in bodies[chosen])
        found.append(
            Target(f"Tesseract ({encoding})", "http", address, tuple(paths[chosen]), requests, f"{JSON}Accept: {accept}\r\n")
        )
    return found


# -- UM-Bridge ---------------------------------------------------------------------------------------------------------------


def _umbridge(address: str, workload: int | str, _folder: Path) -> list[Target]:
    x = point(workload).tolist()
    if workload == LAYER:
        rows = np.eye(100).tolist()
        bodies = [{"name": "layer", "outWrt": 0, "inWrt": 0, "input": [x], "vec": row, "config": {}} for row in rows]
        paths = ["/ApplyJacobian"] * 100
    else:
        name = f"rosenbrock{workload}"
        bodies = [
            {"name": name, "input": [x], "config": {}},
            {"name": name, "outWrt": 0, "inWrt": 0, "input": [x], "sens": [1.0], "config": {}},
        ]
        paths = ["/Evaluate", "/Gradient"]
    return [Target("UM-Bridge", "http", address, tuple(paths), tuple(json.dumps(body).encode() for body in bodies), JSON)]


# -- pytensor-federated ------------------------------------------------------------------------------------------------------


def _federated(address: str, workload: int | str, folder: Path) -> list[Target]:
    request = (folder / str(workload)).read_bytes()
    methods = ("/ArraysToArraysService/EvaluateStream",)
    return [Target("pytensor-federated (stream)", "plain session", address, methods, (request,))]


PEERS: Sequence[Peer] = (
    Peer(
        "Tesseract Core",
        "tesseract-core[runtime]==1.15.0",
        lambda home, port, _: [str(home / "bin/tesseract-runtime"), "serve", "--host", "127.0.0.1", "--port", str(port)],
        _tesseract,
    ),
    Peer(
        "UM-Bridge",
        "umbridge==1.2.10",
        lambda home, port, _: [str(home / "bin/python"), str(HERE / "_peer_umbridge.py"), str(port)],
        _umbridge,
    ),
    Peer(
        "pytensor-federated",
        "pytensor-federated",
        lambda home, port, folder: [str(home / "bin/python"), str(HERE / "_peer_federated.py"), str(port), str(folder)],
        _federated,
    ),
)
