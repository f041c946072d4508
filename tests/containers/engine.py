"""Containers for tests: the image from a clean checkout, containers that are gone afterwards, and load that counts its failures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from tests.containers import callers
from tests.containers.callers import Callers

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 120
PORT = "50051/tcp"
_PROBE_INTERVAL_NS = 500_000_000
HARDENED = {
    "read_only": True,
    "tmpfs": {"/tmp": ""},  # noqa: S108  # within the container
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}


def checkout(folder):
    """Copy what the project holds at the last commit into a folder."""
    folder.mkdir()
    with subprocess.Popen(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x"], cwd=folder, stdin=archive.stdout, check=True)
    assert archive.returncode == 0
    return folder


def build(folder, tag, *options, extras="server"):
    """Build the image from a clean checkout."""
    command = [checkout(folder) / "deploy" / "build", extras, tag, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def wait_until(condition, *, what):
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.1)


class Engine:
    """The engine, as DOCKER_HOST tells."""

    def __init__(self):
        import docker

        self.client = docker.from_env()
        self.client.ping()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    @contextlib.contextmanager
    def running(self, image):
        """Yield a function that starts a container of the image, as guarded as can be, and waits until it is healthy."""
        started = []

        def start(*arguments, image=image, is_awaited=True, **options):
            options = {"ports": {PORT: ("127.0.0.1", None)}, "healthcheck": {"interval": _PROBE_INTERVAL_NS}, **HARDENED, **options}
            container = Container(self.client.containers.run(image, list(arguments), detach=True, **options))
            started.append(container)
            if is_awaited:
                container.wait_healthy()
            return container

        try:
            yield start
        except BaseException:
            for container in started:
                print(container.name, container.logs())
            raise
        finally:
            for container in started:
                container.remove()


class Container:
    """A container.

    Args:
        handle: what the SDK of the engine knows it by.
    """

    def __init__(self, handle):
        self._handle = handle
        self.name = handle.name

    @property
    def state(self):
        """Its state, as the engine sees it now."""
        self._handle.reload()
        return self._handle.attrs["State"]

    @property
    def address(self):
        """Where its port is published on this machine."""
        self._handle.reload()
        (published, *_) = self._handle.attrs["NetworkSettings"]["Ports"][PORT]
        return f"127.0.0.1:{published['HostPort']}"

    def wait_healthy(self):
        """Wait until the engine has seen it healthy."""

        def is_healthy():
            state = self.state
            assert state["Running"], self.logs()
            return state["Health"]["Status"] == "healthy"

        wait_until(is_healthy, what="health")

    def python(self, text):
        """Run a statement inside, and return what it printed."""
        code, output = self._handle.exec_run(["python3", "-c", text])
        assert code == 0, output.decode()
        return output.decode().strip()

    def has(self, command):
        """Whether a command is on the path inside."""
        return self.python(f"import shutil; print(shutil.which({command!r}))") != "None"

    def stop(self):
        """Stop it by SIGTERM, and return its exit code."""
        self._handle.stop(timeout=PATIENCE_S)
        return self.state["ExitCode"]

    def kill(self):
        """End its first process from outside, as a fault would: the engine may start it again."""
        os.kill(self.state["Pid"], signal.SIGKILL)

    def restart(self):
        """Stop it by SIGTERM and start it again."""
        self._handle.restart(timeout=PATIENCE_S)
        self.wait_healthy()

    @property
    def restart_count(self):
        """How often the engine has started it again."""
        self._handle.reload()
        return self._handle.attrs["RestartCount"]

    def logs(self):
        """What it wrote."""
        return self._handle.logs().decode()

    def remove(self):
        """Take it away."""
        self._handle.remove(force=True, v=True)


class Load:
    """Callers in this process, for as long as a block.

    Args:
        target: address of the service.
        settings: settings of their clients.
    """

    def __init__(self, target, **settings):
        self._callers = Callers(target, **settings)

    def __enter__(self):
        self._callers.start()
        self.more()
        return self

    def __exit__(self, kind, *_):
        self._callers.stop()
        if kind is None:
            assert not self._callers.failures, self._callers.failures[:3]

    def more(self, count=100):
        """Wait until that many further calls were answered."""
        goal = self.count + count
        wait_until(lambda: self.count >= goal, what="answers")

    @property
    def count(self):
        """How many calls were answered; none may have failed."""
        assert not self._callers.failures, self._callers.failures[:3]
        return self._callers.answered_count


class LoadWithin(Load):
    """Callers in a container, for as long as a block: they reach what only its network reaches.

    Args:
        start: starts a container, as `Engine.running` gives it.
        network: the network.
        target: address of the service.
    """

    def __init__(self, start, network, target):
        script = {str(Path(callers.__file__)): {"bind": "/callers.py", "mode": "ro"}}
        options = {"entrypoint": ["python3", "/callers.py"], "volumes": script, "network": network, "ports": {}}
        self._start = lambda: start(target, is_awaited=False, healthcheck={"test": ["NONE"]}, **options)
        self._container = None

    def __enter__(self):
        self._container = self._start()
        self.more()
        return self

    def __exit__(self, kind, *_):
        code = self._container.stop()
        if kind is None:
            assert code == 0
            assert self.count > 0

    @property
    def count(self):
        """How many calls were answered; none may have failed."""
        last = next((line for line in reversed(self._container.logs().splitlines()) if line.startswith("[")), "[0, []]")
        answered_count, failures = json.loads(last)
        assert not failures, failures[:3]
        assert self._container.state["Running"] or answered_count, self._container.logs()
        return answered_count
