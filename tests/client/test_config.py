"""The settings of a client: from the environment, from the call, and checked once."""

import dataclasses
import os
import re
from pathlib import Path

import pytest

import gradwire as gw
from gradwire._config import EngineConfig


def test_the_call_wins_over_the_environment():
    environ = {"GRADWIRE_TIMEOUT_S": "2.5", "GRADWIRE_REPRODUCIBLE": "true", "GRADWIRE_RETRY_COUNT": "0", "HOME": "/"}
    config = gw.ClientConfig.from_environ(environ, timeout_s=4.0)
    assert config == gw.ClientConfig(timeout_s=4.0, reproducible=True, retry_count=0)
    assert gw.ClientConfig.from_environ({}) == gw.ClientConfig()
    environ = {"GRADWIRE_HEDGE_AFTER_S": "0.5", "GRADWIRE_SESSIONS": "no", "GRADWIRE_KEPT_BYTES": "0"}
    assert gw.ClientConfig.from_environ(environ) == gw.ClientConfig(hedge_after_s=0.5, sessions=False, kept_bytes=0)


def test_every_setting_is_on_the_page_with_its_default():
    page = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \|([^|]*)\|", page.partition("## Settings\n")[2].partition("\n## ")[0], re.MULTILINE
    )
    told = {name: default.strip() for names, default in rows for name in re.findall(r"\w+", names)}
    units = {"MiB": 2**20, "KiB": 2**10}
    words = {"yes": True, "no": False, "never": None, "": ""}
    for field in dataclasses.fields(gw.ClientConfig):
        text, _, unit = told.pop(field.name).partition(" ")
        assert (words[text] if text in words else float(text) * units.get(unit, 1)) == field.default, field.name
    assert not told
    variables = re.findall(r"^\| `GRADWIRE_(\w+)` \|", page, re.MULTILINE)
    assert sorted(name.lower() for name in variables) == sorted(field.name for field in dataclasses.fields(EngineConfig))


@pytest.mark.parametrize(
    ("environ", "given", "text"),
    [
        ({"GRADWIRE_TIMEOUT_S": "soon"}, {}, "GRADWIRE_TIMEOUT_S: needed a float, got 'soon'; correct the variable"),
        ({"GRADWIRE_REPRODUCIBLE": "maybe"}, {}, "GRADWIRE_REPRODUCIBLE: needed a bool, got 'maybe'"),
        ({}, {"timeout": 3}, "connect: needed a setting among timeout_s, .* got timeout; correct its name"),
        ({}, {"timeout_s": 0}, "ClientConfig.timeout_s: needed a positive number, got 0"),
        ({}, {"timeout_s": float("nan")}, "ClientConfig.timeout_s: needed a positive number, got nan"),
        ({}, {"retry_count": -1}, "ClientConfig.retry_count"),
        ({}, {"hedge_after_s": -1.0}, "ClientConfig.hedge_after_s"),
        ({"GRADWIRE_HEDGE_AFTER_S": "never"}, {}, "GRADWIRE_HEDGE_AFTER_S: needed a float, got 'never'"),
    ],
)
def test_malformed_settings_are_refused(environ, given, text):
    with pytest.raises(gw.ArgumentError, match=text):
        gw.ClientConfig.from_environ(environ, **given)


@pytest.mark.parametrize("target", ["", "  ", None, 50051])
def test_a_target_is_an_address(target):
    with pytest.raises(gw.ArgumentError, match="connect: needed a target such as 'localhost:50051'"):
        gw.connect(target)


def test_a_token_is_never_shown():
    config = gw.ClientConfig.from_environ({"GRADWIRE_TOKEN": "0123456789abcdef"})
    assert config.token == "0123456789abcdef"  # noqa: S105  # a secret of this test
    assert "0123456789" not in repr(config)
    with pytest.raises(gw.ArgumentError) as refused:
        gw.ClientConfig(token="hunter2\r\nx-other: 1")  # noqa: S106  # the same
    assert "hunter2" not in repr(refused.value) + str(refused.value.metadata)


@pytest.mark.parametrize("name", ["cert_file", "key_file"])
def test_a_certificate_needs_its_key(name):
    with pytest.raises(gw.ArgumentError, match=f"ClientConfig.{name}: needed .* beside it"):
        gw.ClientConfig(**{name: "x.pem"})


def test_files_imply_tls(tmp_path):
    assert gw.ClientConfig(ca_file=tmp_path / "ca.pem").uses_tls
    assert gw.ClientConfig.from_environ({"GRADWIRE_TLS": "yes"}).uses_tls
    assert not gw.ClientConfig().uses_tls
    with pytest.raises(gw.ArgumentError, match=r"ClientConfig.ca_file: needed a file that can be read, got .*ca.pem"):
        gw.connect("localhost:1", ca_file=tmp_path / "ca.pem")


@pytest.mark.parametrize(
    "target",
    [
        "example.org:50051",
        "dns:///example.org:1",
        "dns://127.0.0.1/example.org:1",
        "10.0.0.1:1",
        "ipv4:127.0.0.1:1,10.0.0.1:1",
        "[2001:db8::1]:1",
        "localhost.example.org:1",
        "127.0.0.1.example.org:1",
        "example.org",
        "xds:///localhost",
        "dns:///example.org/localhost:1",
        "example.org/localhost:1",
        "0.0.0.0:1",
        "localhost@example.org:1",
    ],
)
def test_a_token_does_not_cross_a_network_in_plaintext_unless_told_so(target):
    token = "0123456789abcdef"  # noqa: S105  # of this test
    for make in (gw.connect, lambda target, **settings: gw.AsyncClient(target, gw.ClientConfig(**settings))):
        with pytest.raises(gw.ArgumentError, match="needed TLS for the token") as refused:
            make(target, token=token)
        assert token not in str(refused.value)
    if not target.startswith("xds"):  # which needs a configuration of its own
        gw.connect(target, token=token, insecure_token=True).close()
        gw.connect(target, token=token, tls=True).close()


@pytest.mark.parametrize(
    "target",
    ["localhost:1", "127.8.8.8:1", "[::1]:1", "dns:///localhost:1", "ipv4:127.0.0.1:1,127.0.0.2:1", "ipv6:[::1]:1", "unix:/run/x"],
)
def test_a_token_stays_in_this_machine_in_plaintext(target):
    gw.connect(target, token="0123456789abcdef").close()  # noqa: S106  # of this test


def test_the_engine_in_this_process_is_told_by_the_environment():
    config = EngineConfig.from_environ({"HOME": "/home/ada", "GRADWIRE_NATIVE": "no", "OMP_NUM_THREADS": "1"})
    assert config == EngineConfig(native=False, cache_folder="/home/ada/.cache/gradwire")
    environ = {"XDG_CACHE_HOME": "/caches", "MALLOC_TRIM_THRESHOLD_": "1", "HOME": "/home/ada", "GRADWIRE_THREADS": "1"}
    assert EngineConfig.from_environ(environ) == EngineConfig(keep_freed_memory=False, cache_folder="/caches/gradwire")
    assert EngineConfig.from_environ({**environ, "GRADWIRE_KEEP_FREED_MEMORY": "yes"}).keep_freed_memory
    assert EngineConfig.from_environ({}).cache_folder == ""
    assert EngineConfig.from_environ({"GRADWIRE_PLAN_FOLDER_BYTES": "0"}).plan_folder_bytes == 0
    with pytest.raises(gw.ArgumentError, match="GRADWIRE_NATIVE: needed a bool, got 'maybe'"):
        EngineConfig.from_environ({"GRADWIRE_NATIVE": "maybe"})


@pytest.mark.parametrize(
    ("environ", "threads"),
    [
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "3,2"}, 3),
        ({"OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "4"}, 2),
        ({"OMP_NUM_THREADS": "0", "MKL_NUM_THREADS": "4"}, 4),
        ({"OMP_NUM_THREADS": "3", "GRADWIRE_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "many"}, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
    ],
)
def test_the_engine_has_the_threads_of_the_libraries_or_processors(environ, threads):
    assert EngineConfig.from_environ(environ).threads == threads


@pytest.mark.parametrize(("environ", "text"), [({"GRADWIRE_THREADS": "0"}, "1 or more"), ({"GRADWIRE_KERNELS": "jit"}, "one of")])
def test_malformed_settings_of_the_engine_are_refused(environ, text):
    with pytest.raises(gw.ArgumentError, match=text):
        EngineConfig.from_environ(environ)
