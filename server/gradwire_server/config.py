"""The settings of the server: one frozen record. Only this module reads the environment.

Every setting is a field of ServerConfig, documented there with its unit; its flag (`--max-message-bytes`) and its variable
(`GRADWIRE_MAX_MESSAGE_BYTES`) are made from its name. A flag wins over a variable, a variable over the default.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from gradwire_core import allocator

PREFIX = "GRADWIRE_"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
POOLS = ("local", "ray")
KERNELS = ("auto", "blocks", "numexpr")


class ConfigError(Exception):
    """Raised when a setting has a value it may not have, or the server cannot start with it."""


def setting(default: Any, doc: str, *, secret: bool = False) -> Any:
    """Declare a field of the configuration: its default and its documentation, with the unit."""
    return dataclasses.field(default=default, metadata={"doc": doc, "secret": secret})


@dataclass(frozen=True)
class ServerConfig:
    """The settings of one server; the documentation of each stands beside it, and in `gradwire serve --help`."""

    listen: str = setting("127.0.0.1:50051", "address to serve on, HOST:PORT; port 0 takes a free one")
    insecure_listen_anywhere: bool = setting(
        False, "allow plaintext on addresses other than loopback: all who reach the port can use it, and read and alter traffic"
    )
    tls_cert_file: str = setting("", "certificate chain of the server, as PEM, read again when it changes; empty: plaintext")
    tls_key_file: str = setting("", "private key of that certificate, unencrypted, as PEM, read again when it changes")
    tls_client_ca_file: str = setting(
        "", "certificates, as PEM, of the authorities whose clients alone are let in (mutual TLS), read again when it changes"
    )
    token_file: str = setting(
        "",
        "file of lines IDENTITY:TOKEN or IDENTITY:sha256:HEX, read again when it changes; calls must then bring such a token",
    )
    health_needs_token: bool = setting(False, "ask for a token for health checks too")
    health_listen: str = setting(
        "", "address for plaintext health checks and nothing else, HOST:PORT, for probes that know no TLS; empty: none"
    )
    shared_programs: bool = setting(False, "let every identity see and evaluate what others stored; else each sees its own alone")
    shared_tensors: bool = setting(False, "let every identity use the tensors that others stored; else each sees its own alone")
    front_ends: int = setting(1, "number of processes that speak gRPC, on Linux; with more than one, they share the address")
    workers: int = setting(2, "number of worker processes; as many evaluations run at the same time")
    spare_workers: int = setting(1, "number of further worker processes that stand by to replace one at once")
    pool: str = setting(
        "local",
        f"where workers run: {' or '.join(POOLS)}; ray: as actors of a Ray cluster that this machine is a node of; "
        'needs "gradwire[ray]", of one version on all nodes',
    )
    ray_address: str = setting("auto", "the Ray cluster, HOST:PORT; auto: the one that this machine is a node of")
    worker_threads: int = setting(
        1, "number of threads of BLAS in each worker, and the most that share one large elementwise evaluation"
    )
    worker_niceness: int = setting(
        5, "how much workers leave the processor to others, 0 to 19: so that front ends answer, and refuse, promptly while all work"
    )
    worker_start_timeout_s: float = setting(60.0, "seconds a worker may take to start")
    worker_memory_bytes: int = setting(
        0, "bytes of memory that a worker may take, on Linux; 0: twice max_peak_bytes, its caches, and the messages it holds"
    )
    inline_budget_s: float = setting(
        1e-4,
        "predicted seconds of the requests that the front end evaluates itself once they come often, besides those that it takes "
        "to carry large arrays to a worker and back; 0: none",
    )
    inline_cache_bytes: int = setting(64 * 2**20, "bytes of the compiled programs that the front end keeps for that")
    queue_count: int = setting(256, "number of requests that may wait for a worker; one more is refused as OVERLOADED")
    max_queue_s: float = setting(
        0.5,
        "predicted seconds of work that may wait for each worker, beside one request; more is refused as OVERLOADED; under a "
        "flood, of at least twice what is done, a request may wait only a quarter as long as it takes",
    )
    max_pool_bytes: int = setting(
        0, "predicted bytes of all evaluations that wait and run; more is refused as OVERLOADED; 0: workers times max_peak_bytes"
    )
    max_batch_count: int = setting(
        32, "number of requests, alike in all but their numbers, that are evaluated together when they wait; 1: each by itself"
    )
    task_attempt_count: int = setting(2, "number of workers a request may end before it fails as POISONED_TASK")
    default_timeout_s: float = setting(300.0, "seconds a call may take that brings no deadline of its own")
    grace_s: float = setting(30.0, "seconds that running calls are given to finish when the server stops")
    max_message_bytes: int = setting(64 * 2**20, "bytes of the largest request or response")
    max_equation_count: int = setting(250_000, "number of equations of a program, nested ones included")
    max_nesting_count: int = setting(16, "levels of lists and programs nested in params; more than 16 is taken as 16")
    max_literal_bytes: int = setting(64 * 2**20, "bytes of all constants of a program")
    max_transform_count: int = setting(16, "number of transforms of an output, one applied to the result of the other")
    max_axis_count: int = setting(52, "number of axes of a tensor")
    max_element_count: int = setting(2**28, "number of elements of a tensor")
    max_input_count: int = setting(4096, "number of inputs of a request, and of seeds of each of its outputs")
    max_output_count: int = setting(256, "number of outputs of a request")
    max_peak_bytes: int = setting(
        4 * 2**30,
        "predicted bytes that one evaluation may hold at a time; one that would hold more computes values again instead of keeping "
        "them, and is refused where that does not suffice",
    )
    max_flop_count: int = setting(10**13, "predicted floating point operations of one evaluation")
    max_predicted_s: int = setting(3600, "predicted seconds of one evaluation")
    max_shards: int = setting(
        1,
        "number of evaluations that one is split into if it takes more than the three limits above: a Jacobian, a Hessian or a "
        "batch, of which each part keeps to them; 1: it is refused",
    )
    max_connection_call_count: int = setting(
        1024, "number of calls of one connection at the same time, and of requests in all its sessions; more wait with the caller"
    )
    max_stream_request_count: int = setting(128, "number of requests of one session that are under way; more wait with the caller")
    max_stream_joined_count: int = setting(256, "number of messages of a session that come as one; 1: each by itself")
    max_stream_tensor_bytes: int = setting(2**31, "bytes of tensors in chunks that come in, or wait to go out, of one session")
    chunked_bytes: int = setting(2**32, "bytes of tensors in chunks that come in, or wait to go out, of all sessions")
    max_identity_call_count: int = setting(0, "number of calls of one identity that run at the same time in one front end; 0: any")
    max_identity_calls_per_s: int = setting(0, "number of calls that one identity may begin in a second in one front end; 0: any")
    program_store_bytes: int = setting(256 * 2**20, "bytes of the programs kept by name; the least recently used leave first")
    tensor_store_bytes: int = setting(
        2**30, "bytes of the tensors kept by name; the least recently used leave first; as many bytes may be on their way"
    )
    max_identity_tensor_bytes: int = setting(0, "bytes of the tensors that one identity keeps by name; 0: as many as all may")
    stall_timeout_s: float = setting(30.0, "seconds that may pass between two parts of a tensor that is sent in several")
    program_cache_bytes: int = setting(16 * 2**20, "bytes, as sent, of the programs that each worker keeps decoded")
    executable_cache_bytes: int = setting(512 * 2**20, "bytes of the compiled programs that each worker keeps")
    executable_cache_count: int = setting(1024, "number of compiled programs that each worker keeps")
    native: bool = setting(
        True,
        'compile elementwise equations, and programs of few numbers, that run for long, in the background; needs "gradwire[jit]"',
    )
    kernels: str = setting(
        "auto",
        "what runs large elementwise work: blocks of NumPy's calls or numexpr, on all worker_threads; auto: what is quickest "
        "here, on as many threads as pay, once the machine was calibrated in the background",
    )
    cache_folder: str = setting(
        "",
        "folder, of this user alone, where compiled code, derived programs and the calibration of this machine are kept between "
        "starts; empty: a temporary one",
    )
    code_folder_bytes: int = setting(
        256 * 2**20, "bytes of compiled code kept in that folder; the least recently used leaves first; 0: none is kept"
    )
    plan_folder_bytes: int = setting(
        64 * 2**20,
        "bytes of derived programs kept in that folder, for workers that start later; the least recently used leave first; 0: none",
    )
    preload: tuple[str, ...] = setting(
        (),
        "files of programs that everyone may name, compiled in every worker before the server serves; each a serialized Program, "
        "CreateProgramRequest, or EvaluateRequest, whose outputs are compiled; protobuf, or its JSON in files named .json",
    )
    reflection: bool = setting(True, "serve gRPC reflection, so that tools can list and call the service")
    metrics_listen: str = setting("", "address for Prometheus metrics, HOST:PORT; empty: none")
    traces: bool = setting(
        False,
        "export traces of calls, as the variables OTEL_... of OpenTelemetry say (OTEL_EXPORTER_OTLP_ENDPOINT: where to); "
        'needs "gradwire[otel]"',
    )
    channelz: bool = setting(False, "serve gRPC channelz, which tells callers of all connections, addresses of others included")
    log_format: str = setting("text", f"how log lines look: {' or '.join(LOG_FORMATS)}")
    log_level: str = setting("info", f"least severe lines logged on stderr: {', '.join(LOG_LEVELS)}; debug logs every call")

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            ConfigError: a setting has a value it may not have.
        """
        for field in dataclasses.fields(self):
            _check_number(field.name, getattr(self, field.name))
        host, _ = split_address("listen", self.listen)
        _check_tls(self)
        if not (self.tls_cert_file or self.insecure_listen_anywhere or is_loopback(host)):
            raise ConfigError(
                f"listen: needed a loopback address, for traffic is plaintext, got {host}; listen on 127.0.0.1, "
                "give --tls-cert-file and --tls-key-file, or pass --insecure-listen-anywhere if the network is trusted"
            )
        if self.ray_address != "auto":
            split_address("ray_address", self.ray_address)
        for name in ("health_listen", "metrics_listen"):
            if getattr(self, name):
                split_address(name, getattr(self, name))
        choices = (("log_level", LOG_LEVELS), ("log_format", LOG_FORMATS), ("kernels", KERNELS), ("pool", POOLS))
        for name, allowed in choices:
            given = getattr(self, name)
            if given not in allowed:
                raise ConfigError(f"{name}: needed one of {', '.join(allowed)}, got {given}; choose one of them")

    @property
    def worker_memory_limit_bytes(self) -> int:
        """Bytes of memory that a worker may take: as set, else what the other limits come to."""
        caches = self.executable_cache_bytes + self.program_cache_bytes
        return self.worker_memory_bytes or 2 * self.max_peak_bytes + caches + _HELD_MESSAGES * self.max_message_bytes

    @property
    def pool_limit_bytes(self) -> int:
        """Bytes that all evaluations together may take: as set, else what each worker may."""
        return self.max_pool_bytes or self.workers * self.max_peak_bytes

    @property
    def identity_tensor_limit_bytes(self) -> int:
        """Bytes of tensors that one identity may keep: as set, else as many as all; where they are shared, all are one."""
        allowed = self.max_identity_tensor_bytes
        return self.tensor_store_bytes if self.shared_tensors or not allowed else min(allowed, self.tensor_store_bytes)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> ServerConfig:
        """Return the settings that the variables `GRADWIRE_...` give, defaults for the others.

        Raises:
            ConfigError: a variable has a value that its setting may not have.
        """
        return cls(**_read_environ(environ))

    @classmethod
    def from_json(cls, text: bytes) -> ServerConfig:
        """Return the settings that `to_json` wrote, defaults for the secrets."""
        return cls(**_with_tuples(json.loads(text)))

    def to_json(self) -> bytes:
        """Return the settings without the secrets, as JSON: what a worker is told."""
        return json.dumps({field.name: getattr(self, field.name) for field in _public(self)}).encode()

    def __str__(self) -> str:
        """The settings as text, `name=value` each, secrets masked."""
        return " ".join(f"{field.name}={self._show(field)}" for field in dataclasses.fields(self))

    def _show(self, field: dataclasses.Field[Any]) -> str:
        value = getattr(self, field.name)
        return "***" if field.metadata["secret"] and value else str(value) or '""'


def parse_arguments(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> tuple[ServerConfig, str]:
    """Return the settings from flags and environment, and the address to probe, if that was asked for instead.

    Raises:
        ConfigError: a flag or variable is unknown or has a value it may not have.
        SystemExit: --help was asked for and given.
    """
    given = _with_tuples(vars(_parser().parse_args(argv)))
    probe = given.pop("probe", "")
    if probe:
        split_address("probe", probe)
        return ServerConfig(), probe
    return ServerConfig(**(_read_environ(os.environ if environ is None else environ) | given)), ""


def worker_environ(config: ServerConfig) -> dict[str, str]:
    """Return the environment of the workers: threads pinned, freed memory kept for reuse, settings and secrets left out."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | worker_variables(config)


def worker_variables(config: ServerConfig) -> dict[str, str]:
    """Return the variables that every worker has, wherever it runs: threads pinned, freed memory kept for reuse."""
    threads = dict.fromkeys(_THREAD_VARIABLES, str(config.worker_threads))
    return threads | {"NUMEXPR_NUM_THREADS": "1"} | allocator.VARIABLES  # numexpr runs in threads of ours


def forbid_fork_handlers() -> None:
    """Keep gRPC from stopping its threads whenever a worker is started; to be called before gRPC is imported."""
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


def trace_exporter() -> str:
    """Return the name of what exports traces, as packages offer it and the standard variables choose it; `none` for nothing."""
    name = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if name != "otlp":
        return name
    variables = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next(filter(None, map(os.environ.get, variables)), "http/protobuf")
    return {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}.get(protocol, protocol)


def split_address(name: str, address: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` or `[IPV6]:PORT`.

    Raises:
        ConfigError: the text is not of that form.
    """
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not (colon and bare and port.isascii() and port.isdigit() and int(port) < 2**16) or (":" in bare and bare == host):
        raise ConfigError(f"{name}: needed HOST:PORT with a port from 0 to 65535, got {address!r}; write it so, as 127.0.0.1:50051")
    return bare, int(port)


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, by its address or as `localhost`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
_HELD_MESSAGES = 6  # a request and its parts, a response and its parts
_ZERO_ALLOWED = frozenset(
    {
        "inline_budget_s",
        "queue_count",
        "grace_s",
        "max_identity_call_count",
        "max_identity_calls_per_s",
        "max_identity_tensor_bytes",
        "max_pool_bytes",
        "max_queue_s",
        "spare_workers",
        "worker_memory_bytes",
        "worker_niceness",
        "program_store_bytes",
        "tensor_store_bytes",
        "program_cache_bytes",
        "executable_cache_bytes",
        "code_folder_bytes",
        "plan_folder_bytes",
    }
)


_TOPICS = {
    "listen": "where it listens",
    "token_file": "who may call, and what callers see",
    "front_ends": "processes",
    "inline_budget_s": "which work runs where and when",
    "default_timeout_s": "time",
    "max_message_bytes": "limits of a request",
    "max_connection_call_count": "limits of a connection, a session and an identity",
    "program_store_bytes": "what is kept",
    "reflection": "what it tells",
}
"""The topics of the settings, each by the first of them."""


def _public(config: ServerConfig) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(config) if not field.metadata["secret"]]


def _check_tls(config: ServerConfig) -> None:
    for name, other in (
        ("tls_cert_file", "tls_key_file"),
        ("tls_key_file", "tls_cert_file"),
        ("tls_client_ca_file", "tls_cert_file"),
    ):
        if getattr(config, name) and not getattr(config, other):
            raise ConfigError(f"{name}: needed {other} beside it, got none; give {_flag(other)} or {_variable(other)}")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, (bool, str, tuple)):
        return
    least = "0 or more" if name in _ZERO_ALLOWED else "more than 0"
    if not (0 <= value < float("inf")) or (value == 0 and name not in _ZERO_ALLOWED):
        raise ConfigError(f"{name}: needed {least}, got {value}; correct the flag {_flag(name)} or the variable {_variable(name)}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return PREFIX + name.upper()


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ConfigErrors."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"arguments: {message}; see gradwire serve --help")


def _parser() -> argparse.ArgumentParser:
    about = "Serve exact derivatives over gRPC. Every flag can also be given as the variable named beside it."
    parser = _Parser(prog="gradwire serve", description=about, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--probe", metavar="HOST:PORT", help="serve nothing; exit with 0 if the server there serves, else with 1")
    group: argparse._ArgumentGroup | None = None
    for field in dataclasses.fields(ServerConfig):
        if field.name in _TOPICS:
            group = parser.add_argument_group(_TOPICS[field.name])
        assert group is not None
        shown = str(field.default) if field.default not in ("", ()) else "none"
        text = f"{field.metadata['doc']} (default: {shown}; {_variable(field.name)})".replace("%", "%%")
        if field.type == "bool":
            group.add_argument(_flag(field.name), action=argparse.BooleanOptionalAction, help=text)
        elif field.type == _LIST:
            group.add_argument(_flag(field.name), action="extend", nargs="+", metavar="STR", help=text)
        else:
            group.add_argument(_flag(field.name), type=_READERS[str(field.type)], metavar=str(field.type).upper(), help=text)
    return parser


def _with_tuples(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _read_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    fields = {_variable(field.name): field for field in dataclasses.fields(ServerConfig)}
    given: dict[str, Any] = {}
    for variable, field in fields.items():
        if variable in environ:
            given[field.name] = _read(variable, str(field.type), environ[variable])
    return given


def _read(variable: str, kind: str, text: str) -> Any:
    try:
        return _READERS[kind](text)
    except ValueError:
        raise ConfigError(f"{variable}: needed {_KIND_NAMES[kind]}, got {text!r}; correct the variable") from None


def _read_bool(text: str) -> bool:
    found = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(text.lower())
    if found is None:
        raise ValueError(text)
    return found


def _read_list(text: str) -> tuple[str, ...]:
    """Return the parts of a text, as of the variable PATH."""
    return tuple(filter(None, text.split(os.pathsep)))


_LIST = "tuple[str, ...]"
_READERS: dict[str, Callable[[str], Any]] = {"bool": _read_bool, "int": int, "float": float, "str": str, _LIST: _read_list}
_KIND_NAMES = {"bool": "true or false", "int": "a whole number", "float": "a number"}
