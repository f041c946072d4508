"""How a client behaves, and the engine in this process: frozen records. The only module of the SDK that reads the environment."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradwire_core.errors import ArgumentError

PREFIX = "GRADWIRE_"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """The settings of a client.

    Attributes:
        timeout_s: seconds that a call may take, its retries included; a call past them raises DeadlineError.
        unreachable_s: seconds after which a target that does not answer at all, or no longer, raises UnreachableError.
        retry_count: how often one call is repeated while the server is overloaded or draining.
        retry_first_s: seconds before the first repetition; each further one waits twice as long, up to 2 s, with jitter.
        message_max_bytes: the largest message sent or received, in bytes.
        inline_max_bytes: programs of at most this many bytes travel with their first request; larger ones are first asked
            for by name.
        sessions: whether evaluations travel over one stream that is kept open to each address, which halves what a call costs and
            lets results and arguments be larger than a message; a server without such streams gets calls of their own anyway.
        named_min_bytes: arrays of at least this many bytes that come again are stored at the server and then named.
        kept_bytes: the most bytes of copies kept to see what comes again; 0: every array travels with every call.
        hedge_after_s: seconds after which an evaluation without an answer is asked once more, of another address if there is
            one; the first answer counts. By default never.
        keepalive_s: seconds without a word from the server after which it is asked whether it is there; 0: never.
        connection_age_s: seconds after which a connection, and the stream over it, is replaced by another, so that a load balancer
            can choose again; what is under way there is still answered there. Up to a fifth less, by chance; 0: never.
        reproducible: whether every call asks for answers that repeat to the last bit, whatever else the server does.
        tls: whether the connection is encrypted, to a server whose certificate a public authority signed.
        ca_file: certificates, as PEM, of the authorities that the server's must be signed by instead; implies `tls`.
        cert_file: the certificate chain that the client shows, as PEM; implies `tls`.
        key_file: its private key, unencrypted, as PEM.
        token: the bearer token sent with every call; it is never shown.
        insecure_token: whether the token may cross a network in plaintext, for all on the way to read.

    Example:
        >>> ClientConfig(timeout_s=5.0).timeout_s
        5.0
        >>> ClientConfig.from_environ({"GRADWIRE_TIMEOUT_S": "2.5"}).timeout_s
        2.5
    """

    timeout_s: float = 60.0
    unreachable_s: float = 3.0
    retry_count: int = 6
    retry_first_s: float = 0.05
    message_max_bytes: int = 64 * 2**20
    inline_max_bytes: int = 64 * 2**10
    sessions: bool = True
    named_min_bytes: int = 64 * 2**10
    kept_bytes: int = 256 * 2**20
    hedge_after_s: float | None = None
    keepalive_s: float = 60.0
    connection_age_s: float = 300.0
    reproducible: bool = False
    tls: bool = False
    ca_file: str | os.PathLike[str] = ""
    cert_file: str | os.PathLike[str] = ""
    key_file: str | os.PathLike[str] = ""
    token: str = dataclasses.field(default="", repr=False)
    insecure_token: bool = False

    def __post_init__(self) -> None:
        """Check every setting."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, (bool, str)) or (value is None and field.default is None):
                continue
            if not value > 0 and not (field.name in _MAY_BE_ZERO and value == 0):
                text = f"ClientConfig.{field.name}: needed a positive number, got {value!r}; correct the setting"
                raise ArgumentError(text, field=field.name, given=value)
        for name, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
            if getattr(self, name) and not getattr(self, other):
                text = f"ClientConfig.{name}: needed {other} beside it, got none; give both"
                raise ArgumentError(text, field=name)
        if self.token and not _is_token(self.token):
            text = "ClientConfig.token: needed visible ASCII characters without spaces, got others; correct the setting"
            raise ArgumentError(text, field="token")

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return bool(self.tls or self.ca_file or self.cert_file)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None, **given: Any) -> ClientConfig:
        """Return the settings that the environment gives: GRADWIRE_TIMEOUT_S and so on, a variable a field.

        Args:
            environ: the environment; the process's own by default.
            given: settings that take precedence over it.

        Raises:
            ArgumentError: a given setting is unknown, or one is malformed; the text names it.
        """
        environ = os.environ if environ is None else environ
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in given:
            if name not in fields:
                raise ArgumentError(
                    f"connect: needed a setting among {', '.join(fields)}, got {name}; correct its name", given=name
                )
        return cls(**{**_read(environ, {name: field.default for name, field in fields.items()}), **given})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The settings of the engine in this process, which the environment alone tells.

    Attributes:
        keep_freed_memory: whether the process keeps freed memory for the next arrays, 512 MiB at most, instead of giving it back to
            the system and asking for it again: large elementwise work is several times as fast.
        native: whether elementwise equations, and programs of few numbers, that have run for a while are compiled where that is
            faster; it needs `gradwire[jit]`, and answers then change in their last bits.
        cache_folder: where compiled code, derived programs and the calibration of this machine are kept, of this user alone; empty:
            nowhere.
        code_folder_bytes: the bytes of compiled code that are kept there; the least recently used leaves first; 0: none is kept.
        plan_folder_bytes: the bytes of derived programs that are kept there, so that no other process derives them again; the least
            recently used leave first; 0: none.
        threads: the most threads that share one large elementwise evaluation.
        kernels: what runs large elementwise work: "blocks" of NumPy's calls or "numexpr", on all threads; "auto": what is quickest
            here, on as many threads as pay, as `gradwire calibrate` shows.
        max_peak_bytes: evaluations that would hold more memory at a time compute values again instead of keeping them, where that
            suffices; 0: none does.

    Example:
        >>> EngineConfig.from_environ({"GRADWIRE_NATIVE": "no"}).native
        False
        >>> EngineConfig.from_environ({"OMP_NUM_THREADS": "3"}).threads
        3
    """

    keep_freed_memory: bool = True
    native: bool = True
    cache_folder: str = ""
    code_folder_bytes: int = 256 * 2**20
    plan_folder_bytes: int = 64 * 2**20
    threads: int = 1
    kernels: str = "auto"
    max_peak_bytes: int = 0

    def __post_init__(self) -> None:
        """Check every setting."""
        if self.threads < 1:
            text = f"EngineConfig.threads: needed 1 or more, got {self.threads}; correct the setting"
            raise ArgumentError(text, field="threads", given=self.threads)
        if self.max_peak_bytes < 0:
            text = f"EngineConfig.max_peak_bytes: needed 0 or more, got {self.max_peak_bytes}; correct the setting"
            raise ArgumentError(text, field="max_peak_bytes", given=self.max_peak_bytes)
        if self.kernels not in KERNELS:
            text = f"EngineConfig.kernels: needed one of {', '.join(KERNELS)}, got {self.kernels!r}; choose one of them"
            raise ArgumentError(text, field="kernels", given=self.kernels)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> EngineConfig:
        """Return the settings that the environment gives: GRADWIRE_NATIVE and so on, a variable a field.

        By default freed memory is left to the variables MALLOC_... where they are set, the folder is `gradwire` in that of the
        user's caches, and there are as many threads as OMP_NUM_THREADS, or a variable of a BLAS, says, else as this process has
        processors.

        Raises:
            ArgumentError: a variable is malformed; the text names it.
        """
        environ = os.environ if environ is None else environ
        home = environ.get("HOME")
        caches = environ.get("XDG_CACHE_HOME") or (str(Path(home) / ".cache") if home else "")
        is_told = any(name.startswith("MALLOC_") for name in environ)
        folder = str(Path(caches) / "gradwire") if caches else ""
        defaults = cls(keep_freed_memory=not is_told, cache_folder=folder, threads=_count_threads(environ))
        return dataclasses.replace(defaults, **_read(environ, dataclasses.asdict(defaults)))


def _count_threads(environ: Mapping[str, str]) -> int:
    """Return the number of threads that libraries are told to use, else of the processors that this process may."""
    for library in ("OMP", "OPENBLAS", "MKL"):
        text = environ.get(f"{library}_NUM_THREADS", "").partition(",")[0].strip()
        if text.isascii() and text.isdigit() and int(text):
            return int(text)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


KERNELS = ("auto", "blocks", "numexpr")
_is_token = re.compile("[!-~]+").fullmatch
_MAY_BE_ZERO = frozenset({"retry_count", "inline_max_bytes", "kept_bytes", "hedge_after_s", "keepalive_s", "connection_age_s"})
_TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _read(environ: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that variables give, of the types of their defaults."""
    return {
        name: _parse(name, environ[PREFIX + name.upper()], default)
        for name, default in defaults.items()
        if PREFIX + name.upper() in environ
    }


def _parse(name: str, text: str, default: Any) -> Any:
    kind = float if default is None else type(default)
    try:
        return _TRUTHS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        variable = PREFIX + name.upper()
        raise ArgumentError(
            f"{variable}: needed a {kind.__name__}, got {text!r}; correct the variable", field=name, given=text
        ) from None
