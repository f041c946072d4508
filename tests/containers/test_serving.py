"""A container among others: certificates and tokens from mounted files, and a limit of memory that only its breaker feels."""

import numpy as np
import pytest

import gradwire as gw
from gradwire_core.errors import GradwireError, LimitError, PoisonedTaskError, UnauthenticatedError, UnreachableError
from tests.containers import engine as containers
from tests.containers.engine import Load
from tests.server.secure import Authority

OLD, NEW = "0123456789abcdef", "fedcba9876543210"
LIMIT_BYTES = 1200 * 2**20


def slope(address, **settings):
    with gw.connect(address, **settings) as client:
        return float(client.grad(lambda x: x**2)(3.0))


@pytest.fixture
def secrets(tmp_path):
    """A folder with what a server proves itself by and asks for, which the user of the container may read."""
    authority = Authority(tmp_path / "secrets")
    authority.issue("localhost", as_files=(tmp_path / "secrets" / "tls.crt", tmp_path / "secrets" / "tls.key"))
    (tmp_path / "secrets" / "tokens").write_text(f"alice:{OLD}\n")
    for path in (tmp_path / "secrets").iterdir():
        path.chmod(0o644)
    return tmp_path / "secrets"


def test_certificates_and_tokens_are_read_from_mounted_files_and_when_they_change(run, secrets):
    container = run(
        *("--tls-cert-file", "/secrets/tls.crt", "--tls-key-file", "/secrets/tls.key", "--token-file", "/secrets/tokens"),
        volumes={str(secrets): {"bind": "/secrets", "mode": "ro"}},
    )
    address = container.address.replace("127.0.0.1", "localhost")
    trusted = {"ca_file": secrets / "ca.pem", "unreachable_s": 0.5}
    assert slope(address, token=OLD, **trusted) == 6.0
    with pytest.raises(UnauthenticatedError):
        slope(address, token=NEW, **trusted)
    with pytest.raises(UnauthenticatedError):
        slope(address, **trusted)
    with pytest.raises(UnreachableError):
        slope(address, unreachable_s=0.5)  # in plaintext

    (secrets / "next").write_text(f"alice:{NEW}\n")
    (secrets / "next").chmod(0o644)
    (secrets / "next").replace(secrets / "tokens")

    def is_new():
        try:
            return slope(address, token=NEW, **trusted) == 6.0
        except UnauthenticatedError:
            return False

    containers.wait_until(is_new, what="the new token")
    with pytest.raises(UnauthenticatedError):
        slope(address, token=OLD, **trusted)
    assert OLD not in container.logs()
    assert NEW not in container.logs()


def test_only_the_request_that_takes_too_much_memory_fails(run):
    """What it takes is more than the container may have, though less than the server was told it may."""
    container = run(mem_limit=LIMIT_BYTES, memswap_limit=LIMIT_BYTES)
    began = container.state["StartedAt"]
    x = np.linspace(0.0, 1.0, 14_000)  # its outer product with itself takes 1.57 GB
    with Load(container.address) as load, gw.connect(container.address) as client:
        with pytest.raises(PoisonedTaskError) as raised:
            client.evaluate(lambda x: np.sum(np.exp(np.sort(np.outer(x, x), axis=0))))(x)
        assert isinstance(raised.value, GradwireError)
        load.more()
    assert container.state["Running"]
    assert container.state["StartedAt"] == began


def test_what_is_predicted_to_take_too_much_is_refused_at_once(run):
    container = run("--max-peak-bytes", str(100 * 2**20), mem_limit=LIMIT_BYTES)
    with gw.connect(container.address) as client, pytest.raises(LimitError):
        client.evaluate(lambda x: np.sum(np.exp(np.sort(np.outer(x, x), axis=0))))(np.ones(14_000))
