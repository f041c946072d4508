"""The client in another language gets the same answers: from a server process, from a container, over TLS and with a token."""

import os
import subprocess

import pytest

from tests.containers.engine import PATIENCE_S, ROOT
from tests.server.processes import serving
from tests.server.secure import Authority

FOLDER = ROOT / "deploy" / "examples" / "node"
ALICE = "0123456789abcdef"


@pytest.fixture(scope="module")
def tour(needs):
    """Run the example against an address, and return the first words of its lines."""
    node = needs("node")
    if not (FOLDER / "node_modules").exists():
        needs("the packages of deploy/examples/node")

    def run_it(address, **environ):
        command = [node, "main.js", address]
        options = {"capture_output": True, "text": True, "timeout": PATIENCE_S, "env": os.environ | environ}
        return subprocess.run(command, cwd=FOLDER, check=False, **options)

    return run_it


def check(done):
    assert done.returncode == 0, done.stderr
    said = [line.split()[0] for line in done.stdout.splitlines()]
    assert said == ["value", "gradient", "sign", "logarithm", "forgotten", "sent", "SHAPE_MISMATCH"]
    assert "PROGRAM_MISSING" in done.stdout


def test_a_server_process_answers_it(tour):
    with serving("--workers", "1") as server:
        check(tour(server.address))


def test_it_tells_when_nobody_answers(tour):
    done = tour("127.0.0.1:1")
    assert done.returncode != 0
    assert "UNAVAILABLE" in done.stderr


def test_a_container_answers_it_over_tls_to_who_has_a_token(tour, run, tmp_path):
    authority = Authority(tmp_path / "secrets")
    authority.issue("localhost", as_files=(tmp_path / "secrets" / "tls.crt", tmp_path / "secrets" / "tls.key"))
    (tmp_path / "secrets" / "tokens").write_text(f"alice:{ALICE}\n")
    for path in (tmp_path / "secrets").iterdir():
        path.chmod(0o644)
    container = run(
        *("--tls-cert-file", "/secrets/tls.crt", "--tls-key-file", "/secrets/tls.key", "--token-file", "/secrets/tokens"),
        volumes={str(tmp_path / "secrets"): {"bind": "/secrets", "mode": "ro"}},
    )
    address = container.address.replace("127.0.0.1", "localhost")
    check(tour(address, GRADWIRE_CA_FILE=authority.ca_file, GRADWIRE_TOKEN=ALICE))
    refused = tour(address, GRADWIRE_CA_FILE=authority.ca_file)
    assert refused.returncode != 0
    assert "UNAUTHENTICATED" in refused.stderr
