"""Machines for tests: network namespaces behind one bridge, each with an address of its own, that nobody else reaches.

    hub: callers and Envoy, 10.77.0.1 -- bridge --+-- 10.77.0.10  a replica
                                                  +-- 10.77.0.11  a replica ...

Processes are started in them by `ip netns exec`, which becomes the process, so that it is ended by its id.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from pathlib import Path

from tests.containers.engine import PATIENCE_S, ROOT, wait_until

HUB_ADDRESS = "10.77.0.1"
NAME = "replicas"
"""What all replicas are found by, in the hub."""
PORT = 50051
ENVOY_PORT = 50050
ENVOY_FILE = ROOT / "deploy" / "envoy" / "envoy.yaml"
_METRICS_PORT = 50053
_ENDED_S = 60


def ip(*arguments):
    """Run ip, and return what it printed."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


class Machine:
    """One machine: a namespace with an address.

    Args:
        name: of the namespace.
        address: the address.
    """

    def __init__(self, name, address):
        self.name = name
        self.address = address
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")

    def start(self, *command, environ=(), **options):
        """Start a command in it."""
        return subprocess.Popen(["ip", "netns", "exec", self.name, *command], env=os.environ | dict(environ), text=True, **options)

    def remove(self):
        """Take it away."""
        ip("netns", "delete", self.name)


class Replica(Machine):
    """A machine that serves.

    Args:
        name: of the namespace.
        address: the address.
        hub: the machine it is connected to.
        folder: where its log is written.
    """

    def __init__(self, name, address, hub, folder):
        super().__init__(name, address)
        self._port = f"{name}-p"[-15:]
        self._hub = hub
        self._log = Path(folder) / f"{name}.log"
        self._server = None
        ip("-n", hub.name, "link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("-n", hub.name, "link", "set", self._port, "master", "hub", "up")
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")

    def begin(self, *arguments):
        """Start its server, and return at once."""
        command = [sys.executable, "-m", "gradwire_server", "--listen", f"{self.address}:{PORT}", "--insecure-listen-anywhere"]
        command += ["--metrics-listen", f"{self.address}:{_METRICS_PORT}", "--workers", "1", "--spare-workers", "0"]
        with self._log.open("a") as log:
            self._server = self.start(*command, *arguments, stdout=subprocess.PIPE, stderr=log)

    def wait(self):
        """Wait until its server serves."""
        line = self._server.stdout.readline()
        assert line.startswith("listening on"), self._log.read_text()

    def kill(self):
        """End its server as a fault would."""
        self._server.kill()
        self._server.communicate(timeout=_ENDED_S)

    def stop(self):
        """Stop its server by SIGTERM, and return the exit code."""
        self._server.terminate()
        self._server.communicate(timeout=_ENDED_S)
        return self._server.returncode

    def serve(self):
        """Start its server again, and wait until it serves."""
        self.begin()
        self.wait()

    def unplug(self):
        """Take it off the network: nobody is told."""
        ip("-n", self._hub.name, "link", "set", self._port, "down")

    def plug_in(self):
        """Put it on the network again."""
        ip("-n", self._hub.name, "link", "set", self._port, "up")

    @property
    def call_count(self):
        """How many evaluations it has finished, as its metrics tell."""
        text = f"import urllib.request as u; print(u.urlopen('http://{self.address}:{_METRICS_PORT}/metrics').read().decode())"
        with self._hub.start(sys.executable, "-c", text, stdout=subprocess.PIPE) as asking:
            lines = asking.communicate(timeout=PATIENCE_S)[0].splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith('gradwire_call_seconds_count{code="OK",rpc="Evaluate')
        )

    def remove(self):
        """End its server, and take it away."""
        if self._server is not None and self._server.poll() is None:
            self.kill()
        super().remove()


class Network:
    """A hub and replicas that serve; usable as a context manager.

    Args:
        count: how many replicas.
        arguments: settings of their servers.
    """

    def __init__(self, count, *arguments):
        self._count = count
        self._arguments = arguments
        self._folder = tempfile.TemporaryDirectory(prefix="gradwire-machines.")
        self._token = uuid.uuid4().hex[:5]
        self._started = []
        self._has_envoy = False
        self.replicas = []
        self.hub = None

    def __enter__(self):
        try:
            self.hub = self._hub()
            for n in range(self._count):
                address = f"10.77.0.{10 + n}"
                self.replicas.append(Replica(f"gw{self._token}-{n}", address, self.hub, self._folder.name))
                self.replicas[-1].begin(*self._arguments)
            for each in self.replicas:
                each.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for popen in self._started:
            if popen.poll() is None:
                popen.kill()
            popen.communicate(timeout=_ENDED_S)
        for each in [*self.replicas, self.hub]:
            if each is not None:
                each.remove()
        self._folder.cleanup()

    def _hub(self):
        made = Machine(f"gw{self._token}-hub", HUB_ADDRESS)
        ip("-n", made.name, "link", "add", "name", "hub", "type", "bridge")
        ip("-n", made.name, "addr", "add", f"{HUB_ADDRESS}/24", "dev", "hub")
        ip("-n", made.name, "link", "set", "hub", "up")
        return made

    @property
    def listed(self):
        """The replicas as a target that lists them."""
        return "ipv4:" + ",".join(f"{each.address}:{PORT}" for each in self.replicas)

    @property
    def named(self):
        """The replicas as a target that names them."""
        return f"dns:///{NAME}:{PORT}"

    def envoy(self, program, text=None):
        """Start Envoy in the hub, before these replicas; return its address once it takes them all for healthy.

        Args:
            program: the path of Envoy.
            text: its configuration; that of the project if there is none.
        """
        import yaml

        document = yaml.safe_load(text or ENVOY_FILE.read_text())
        (cluster,) = document["static_resources"]["clusters"]
        (group,) = cluster["load_assignment"]["endpoints"]
        group["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {"address": each.address, "port_value": PORT}}}} for each in self.replicas
        ]
        path = Path(self._folder.name) / "envoy.json"
        path.write_text(json.dumps(document))
        with (Path(self._folder.name) / "envoy.log").open("w") as log:
            options = ["--config-path", str(path), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
            self._started.append(self.hub.start(program, *options, stdout=log, stderr=log))
        self._has_envoy = True
        self.settle()
        return f"{HUB_ADDRESS}:{ENVOY_PORT}"

    def settle(self):
        """Wait until Envoy, if there is one, takes every replica for healthy."""
        wait_until(lambda: not self._has_envoy or self._healthy_count() == len(self.replicas), what="health, as Envoy sees it")

    def _healthy_count(self):
        text = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9901/clusters?format=json').read().decode())"
        with self.hub.start(sys.executable, "-c", text, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as asking:
            told = asking.communicate(timeout=PATIENCE_S)[0]
        (cluster,) = json.loads(told)["cluster_statuses"] if told else [{}]
        states = [each["health_status"] for each in cluster.get("host_statuses", ())]
        return sum(state == {"eds_health_status": "HEALTHY"} for state in states)

    def load(self, target, **environ):
        """Callers in the hub, for as long as a block."""
        hosts = Path(self._folder.name) / "hosts"
        hosts.write_text("".join(f"{each.address} {NAME}\n" for each in self.replicas))
        # The names are seen by this process alone: it has mounts of its own.
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        command = ["sh", "-c", script, str(hosts), sys.executable, "-m", "tests.containers.callers", target]

        def start():
            self._started.append(self.hub.start(*command, cwd=ROOT, environ=environ, stdout=subprocess.PIPE))
            return self._started[-1]

        return LoadInHub(start)


class LoadInHub:
    """Callers in the hub, for as long as a block; none may fail.

    Args:
        start: starts them.
    """

    def __init__(self, start):
        self._start = start
        self._last = (0, [])

    def __enter__(self):
        self._popen = self._start()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.more()
        except BaseException:
            self._popen.kill()
            raise
        return self

    def __exit__(self, kind, *_):
        self._popen.send_signal(signal.SIGTERM)
        code = self._popen.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        self._popen.stdout.close()
        if kind is None:
            assert code == 0
            assert self.count > 0

    def _read(self):
        for line in self._popen.stdout:
            self._last = json.loads(line)

    @property
    def count(self):
        """How many calls were answered; none may have failed."""
        count, failures = self._last
        assert not failures, failures[:3]
        return count

    def more(self, count=100):
        """Wait until that many further calls were answered."""
        goal = self.count + count
        wait_until(lambda: self._popen.poll() is not None or self.count >= goal, what="answers")
        assert self.count >= goal, "the callers ended"
