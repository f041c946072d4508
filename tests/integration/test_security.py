"""The SDK over TLS, with certificates and tokens, by either client."""

import asyncio

import numpy as np
import pytest

import gradwire as gw
from tests.server.processes import serving
from tests.server.secure import Authority

TOKEN, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2
X = np.array([1.0, 2.0])


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def client_files(authority):
    return authority.issue("calibration.example.org")


@pytest.fixture(scope="module")
def target(authority, tmp_path_factory):
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(f"alice:{TOKEN}\n")
    cert_file, key_file = authority.issue("127.0.0.1")
    files = ("--tls-cert-file", cert_file, "--tls-key-file", key_file, "--tls-client-ca-file", authority.ca_file)
    with serving("--workers", "1", *files, "--token-file", str(tokens)) as server:
        yield server.address


@pytest.fixture
def settings(authority, client_files):
    cert_file, key_file = client_files
    return {"ca_file": authority.ca_file, "cert_file": cert_file, "key_file": key_file, "token": TOKEN, "unreachable_s": 0.5}


def slope(target, settings):
    with gw.connect(target, **settings) as client:
        return client.grad(lambda x: np.sum(x**2))(X)


def slope_awaited(target, settings):
    async def run():
        async with gw.AsyncClient(target, gw.ClientConfig(**settings)) as client:
            return await client.grad(lambda x: np.sum(x**2))(X)

    return asyncio.run(run())


@pytest.fixture(params=[slope, slope_awaited], ids=["sync", "async"])
def ask(request):
    return request.param


def test_a_client_with_its_files_and_token_is_answered(ask, target, settings):
    np.testing.assert_array_equal(ask(target, settings), 2 * X)


@pytest.mark.parametrize("token", ["", OTHER])
def test_a_client_without_a_valid_token_is_told_so(token, ask, target, settings):
    with pytest.raises(gw.UnauthenticatedError, match="authorization: needed a") as refused:
        ask(target, settings | {"token": token})
    assert TOKEN not in str(refused.value)


def test_a_client_without_a_certificate_reaches_nothing(ask, target, settings):
    with pytest.raises(gw.UnreachableError):
        ask(target, settings | {"cert_file": "", "key_file": ""})


def test_a_server_of_another_name_or_authority_is_not_trusted(ask, target, settings, tmp_path):
    other = Authority(tmp_path / "other")
    port = target.rpartition(":")[2]
    for changes in ({"ca_file": other.ca_file}, {"ca_file": "", "tls": True}):
        with pytest.raises(gw.UnreachableError, match=r"from a trusted authority, got one without .*; check the name, and ca_file"):
            ask(target, settings | changes)
    with pytest.raises(gw.UnreachableError):
        ask(f"localhost:{port}", settings)


def test_the_environment_is_enough(target, settings, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(f"GRADWIRE_{name.upper()}", str(value))
    np.testing.assert_array_equal(slope(target, {}), 2 * X)
