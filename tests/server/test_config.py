import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from gradwire_core import allocator
from gradwire_server.config import ConfigError, ServerConfig, parse_arguments, setting, split_address, worker_environ


@pytest.mark.parametrize("field", dataclasses.fields(ServerConfig), ids=lambda field: field.name)
def test_help_documents_every_setting_with_flag_and_variable(field, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--help"])
    shown = "".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "--" + field.name.replace("_", "-") in shown
    assert "GRADWIRE_" + field.name.upper() in shown
    assert "".join(field.metadata["doc"].split()) in shown


def test_help_is_grouped_by_topic(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    shown = capsys.readouterr().out
    topics = dict(re.findall(r"^([a-z][^\n]*):\n(.*?)(?=^[a-z]|\Z)", shown, re.MULTILINE | re.DOTALL))
    assert "--tls-cert-file" in topics["where it listens"]
    assert "--worker-threads" in topics["processes"]
    assert "--max-axis-count" in topics["limits of a request"]
    assert "GRADWIRE_LOG_FORMAT" in topics["what it tells"]


def test_a_list_is_a_flag_of_several_values_or_a_variable_as_path_is():
    assert parse_arguments(["--preload", "a", "b", "--preload", "c"], {})[0].preload == ("a", "b", "c")
    assert parse_arguments([], {"GRADWIRE_PRELOAD": "a:b"})[0].preload == ("a", "b")
    config = ServerConfig(preload=("a",))
    assert ServerConfig.from_json(config.to_json()) == config


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_default():
    environ = {"GRADWIRE_WORKERS": "3", "GRADWIRE_QUEUE_COUNT": "5", "GRADWIRE_REFLECTION": "no", "OTHER": "x"}
    config, probe = parse_arguments(["--workers", "4", "--grace-s", "1.5"], environ)
    assert (config.workers, config.queue_count, config.reflection, config.grace_s) == (4, 5, False, 1.5)
    assert config.max_axis_count == ServerConfig().max_axis_count
    assert not probe
    assert ServerConfig.from_environ(environ) == ServerConfig(workers=3, queue_count=5, reflection=False)


def test_probe_takes_an_address():
    assert parse_arguments(["--probe", "localhost:1"], {})[1] == "localhost:1"


@pytest.mark.parametrize(
    ("argv", "environ", "text"),
    [
        (["--workers", "0"], {}, "workers: needed more than 0, got 0"),
        (["--workers", "two"], {}, "invalid int value: 'two'"),
        (["--worker", "2"], {}, "unrecognized arguments"),
        (["--grace-s", "-1"], {}, "grace_s: needed 0 or more, got -1.0"),
        (["--grace-s", "nan"], {}, "grace_s: needed 0 or more, got nan"),
        (["--log-level", "loud"], {}, "log_level: needed one of debug, info, warning, error, got loud"),
        (["--log-format", "xml"], {}, "log_format: needed one of text, json, got xml"),
        (["--listen", "50051"], {}, "listen: needed HOST:PORT"),
        (["--listen", "127.0.0.1:65536"], {}, "listen: needed HOST:PORT"),
        (["--listen", "::1:80"], {}, "listen: needed HOST:PORT"),
        (["--listen", "0.0.0.0:0"], {}, "listen: needed a loopback address, for traffic is plaintext, got 0.0.0.0"),
        (["--listen", "example.org:0"], {}, "pass --insecure-listen-anywhere"),
        (["--metrics-listen", "9000"], {}, "metrics_listen: needed HOST:PORT"),
        (["--probe", "9000"], {}, "probe: needed HOST:PORT"),
        ([], {"GRADWIRE_WORKERS": "many"}, "GRADWIRE_WORKERS: needed a whole number, got 'many'"),
        ([], {"GRADWIRE_REFLECTION": "maybe"}, "GRADWIRE_REFLECTION: needed true or false, got 'maybe'"),
    ],
)
def test_a_wrong_setting_is_named(argv, environ, text):
    with pytest.raises(ConfigError) as error:
        parse_arguments(argv, environ)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:1", "[::1]:2", "127.8.8.8:3"])
def test_plaintext_may_listen_on_loopback(listen):
    assert ServerConfig(listen=listen).listen == listen


def test_plaintext_listens_elsewhere_only_if_told_in_so_many_words():
    assert ServerConfig(listen="0.0.0.0:0", insecure_listen_anywhere=True).insecure_listen_anywhere


def test_an_address_is_split_with_or_without_brackets():
    assert split_address("listen", "[::1]:50051") == ("::1", 50051)
    assert split_address("listen", "localhost:0") == ("localhost", 0)


def test_kernels_are_chosen_by_name():
    assert ServerConfig.from_environ({"GRADWIRE_KERNELS": "numexpr"}).kernels == "numexpr"
    with pytest.raises(ConfigError, match="kernels: needed one of auto, blocks, numexpr, got fast"):
        ServerConfig(kernels="fast")


@dataclass(frozen=True)
class SecretConfig(ServerConfig):
    token: str = setting("", "a text that must not be shown", secret=True)


def test_secrets_are_neither_printed_nor_handed_to_workers():
    config = SecretConfig(token="hunter2", workers=7)  # noqa: S106  # a secret of this test
    assert "workers=7" in str(config)
    assert "token=***" in str(config)
    assert "hunter2" not in str(config) + config.to_json().decode()
    assert ServerConfig.from_json(config.to_json()) == ServerConfig(workers=7)


def test_workers_get_pinned_threads_and_no_settings(monkeypatch):
    monkeypatch.setenv("GRADWIRE_LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    environ = worker_environ(ServerConfig(worker_threads=2))
    assert environ["OMP_NUM_THREADS"] == environ["OPENBLAS_NUM_THREADS"] == "2"
    assert environ["NUMEXPR_NUM_THREADS"] == "1"
    assert environ.items() >= allocator.VARIABLES.items()
    assert not [name for name in environ if name.startswith("GRADWIRE_")]


ROOT = Path(__file__).parents[2]
CERTIFICATES = {"GRADWIRE_TLS_CERT_FILE": "x.crt", "GRADWIRE_TLS_KEY_FILE": "x.key"}


def test_the_image_serves_as_it_is_and_is_probed_where_it_tells_its_health():
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    environ = dict(re.findall(r"^\s*(?:ENV )?(GRADWIRE_\w+)=(\S+)", text, re.MULTILINE))
    (probe,) = (json.loads(found) for found in re.findall(r"CMD (\[.*\])$", text, re.MULTILINE))
    for more in ({}, CERTIFICATES):
        config, _ = parse_arguments([], {**environ, **more})
        assert config.listen == "0.0.0.0:50051"
        assert parse_arguments(probe[2:], {})[1] == config.health_listen


def test_the_composed_server_is_published_on_loopback_alone():
    text = (ROOT / "docker-compose.yml").read_text()
    published = re.findall(r'^      - "(.*:\d+)"$', text, re.MULTILINE)
    assert "127.0.0.1:${GRADWIRE_PORT-50051}:50051" in published
    assert all(address.startswith("127.0.0.1:") for address in published)


def test_other_addresses_are_served_over_tls():
    config = ServerConfig.from_environ({"GRADWIRE_LISTEN": "0.0.0.0:0", **CERTIFICATES})
    assert not config.insecure_listen_anywhere
    with pytest.raises(ConfigError, match="loopback"):
        ServerConfig.from_environ({"GRADWIRE_LISTEN": "0.0.0.0:0", "GRADWIRE_TOKEN_FILE": "x"})
