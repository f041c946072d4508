"""Containers for tests: the image from a clean checkout, containers that are gone afterwards, and load that counts its failures."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from pathlib import Path

import numpy as np

import gradwire as gw

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
        """End it by SIGKILL."""
        self._handle.kill()

    def start(self):
        """Start it again."""
        self._handle.start()

    def logs(self):
        """What it wrote."""
        return self._handle.logs().decode()

    def remove(self):
        """Take it away."""
        self._handle.remove(force=True, v=True)


class Load:
    """Callers that go on asking for a gradient until the block ends, and check every answer.

    Args:
        target: address of the service.
        caller_count: number of callers at the same time.
        settings: settings of their clients.
    """

    def __init__(self, target, caller_count=4, **settings):
        self._target = target
        self._settings = {"timeout_s": 60.0, "unreachable_s": 60.0, **settings}
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(caller_count)]
        self.answered_count = 0
        self.failures = []

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def more(self, count=200):
        """Wait until that many further calls were answered."""
        goal = self.answered_count + count
        wait_until(lambda: self.failures or self.answered_count >= goal, what="answers")
        assert not self.failures

    def _call(self):
        x = np.linspace(0.1, 1.0, 50)
        with gw.connect(self._target, **self._settings) as client:
            slope = client.grad(lambda x: np.sum(np.sin(x)))
            while not self._stopping.is_set():
                try:
                    assert np.allclose(slope(x), np.cos(x))
                except Exception as error:  # noqa: BLE001  # whatever it is, it is what the test counts
                    self.failures.append(error)
                else:
                    self.answered_count += 1  # a count that is short by one does no harm
