"""The compose file: read alike by both programs; replicas that are killed, restarted and replaced, while nobody's call fails."""

import os
import shutil
import subprocess
import sys
import uuid

import grpc
import pytest
from google.rpc.status_pb2 import Status

import gradwire as gw
from gradwire_core.errors import ArgumentError
from gradwire_proto.status import decode_status
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import differentiation_service_pb2_grpc as pb_grpc
from tests.containers import engine as containers
from tests.containers.engine import ROOT, Container, LoadWithin

TARGET = "dns:///server:50051"
SERVICE = "server"
NEXT = "gradwire:next"
UNHEARD_OF = b"\xa2\x06\x05later"  # field 100 of a request, a text


def programs():
    """The programs here that read compose files: the older one, the newer one, or both."""
    found = [["docker-compose"]] if shutil.which("docker-compose") else []
    docker = os.environ.get("DOCKER", "docker")
    newer = [docker, "compose"]
    if shutil.which(docker) and subprocess.run([*newer, "version"], capture_output=True, check=False).returncode == 0:
        found.append(newer)
    return found


@pytest.fixture(scope="module")
def document(needs):
    """The compose file, as written."""
    yaml = needs("yaml", "package")
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


class Project:
    """The services of the compose file, under a name of their own.

    Args:
        engine: the engine.
        program: what reads the file.
        more: what is added to the file.
    """

    def __init__(self, engine, program, more=""):
        self._more = more and ["--file", "docker-compose.yml", "--file", str(more)]
        self.name = f"gradwire-{uuid.uuid4().hex[:8]}"
        self.network = f"{self.name}_default"
        self._engine = engine
        self._program = program

    def run(self, *arguments, port="", image="gradwire"):
        """Run the program; replicas are published on free ports, unless one is told."""
        command = [*self._program, *self._more, "--project-directory", str(ROOT), "--project-name", self.name, *arguments]
        environ = os.environ | {"GRADWIRE_PORT": port, "GRADWIRE_IMAGE": image}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environ)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self, count, *, options=(), **environ):
        """Start replicas and return them when they are healthy."""
        self.run("up", "-d", "--no-build", *options, "--scale", f"{SERVICE}={count}", SERVICE, **environ)
        found = self.replicas()
        assert len(found) == count
        for replica in found:
            replica.wait_healthy()
        return found

    def replicas(self):
        """The replicas there are."""
        labels = [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={SERVICE}"]
        return [Container(each) for each in self._engine.client.containers.list(filters={"label": labels})]


@pytest.fixture
def project(engine, image):
    (program, *_) = programs()
    found = Project(engine, program)
    yield found
    found.run("down", "--volumes", "--timeout", "5")


@pytest.fixture
def eager(engine, image, tmp_path):
    """The same, but its replicas are asked for their health more often, so that a test waits for what it needs and no longer."""
    (program, *_) = programs()
    more = tmp_path / "eager.yml"
    more.write_text("services: {server: {healthcheck: {interval: 2s}}}\n")
    found = Project(engine, program, more)
    yield found
    found.run("down", "--volumes", "--timeout", "5")


def test_the_file_is_valid_for_every_program_that_is_here(needs):
    if not programs():
        needs("docker-compose")
    for program in programs():
        done = subprocess.run([*program, "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_it_stays_within_what_both_programs_take(document):
    assert "version" not in document
    for service in document["services"].values():
        assert "deploy" not in service  # the older takes it for another engine; the newer wants the count of processes there too
        assert {"mem_limit", "restart"} <= set(service) or service.get("profiles") == ["load"]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


def test_what_is_published_is_published_on_this_machine_alone(document):
    ports = [port for service in document["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "127.0.0.1:${GRADWIRE_PORT-50051}:50051" in ports


def test_it_builds_upon_the_base_of_the_image_unless_another_is_named(document):
    (argument,) = [line for line in (ROOT / "deploy" / "Dockerfile").read_text().splitlines() if line.startswith("ARG BASE_IMAGE=")]
    default = argument.removeprefix("ARG BASE_IMAGE=")
    for service in document["services"].values():
        if "build" in service:
            assert service["build"]["args"]["BASE_IMAGE"] == f"${{BASE_IMAGE-{default}}}"


def test_only_the_server_starts_unasked(document):
    assert {name: each.get("profiles") for name, each in document["services"].items()} == {
        "server": None,
        "prometheus": ["observability"],
        "grafana": ["observability"],
        "load": ["load"],
    }


def test_workers_fit_into_the_memory_of_their_container(document):
    from gradwire_server.config import ServerConfig

    service = document["services"]["server"]
    config = ServerConfig.from_environ(service["environment"] | {"GRADWIRE_INSECURE_LISTEN_ANYWHERE": "true"})
    (mebibytes,) = [int(service["mem_limit"].removesuffix("g")) * 1024]
    assert config.workers * config.worker_memory_limit_bytes * 1.5 <= mebibytes * 2**20
    assert 2 * config.max_peak_bytes <= config.worker_memory_limit_bytes


def test_it_serves_where_it_says_with_limits_and_restarts(engine, project):
    (replica,) = project.up(1, port="50051")
    assert replica.address == "127.0.0.1:50051"
    with gw.connect(replica.address) as client:
        assert client.grad(lambda x: x**2)(3.0) == 6.0
    limits = engine.client.containers.get(replica.name).attrs["HostConfig"]
    assert (limits["Memory"], limits["NanoCpus"], limits["PidsLimit"]) == (2 * 2**30, 2 * 10**9, 256)
    assert limits["ReadonlyRootfs"]
    replica.kill()
    containers.wait_until(lambda: replica.restart_count == 1, what="a restart")
    replica.wait_healthy()


def test_the_harness_finds_every_objective_met_from_within_and_from_without(project, tmp_path):
    containers.build(tmp_path / "load", "gradwire-load", extras="server-load")
    (replica,) = project.up(1, port="50051")
    command = [sys.executable, "-m", "gradwire", "load", "run", "smoke", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=containers.PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every objective was met" in project.run("--profile", "load", "run", "--rm", "load", port="50051")
    assert calls_of(replica) > 0


def test_calls_are_shared_among_replicas_and_one_is_killed_without_a_failed_call(eager, run):
    first, second = eager.up(2)
    with LoadWithin(run, eager.network, TARGET) as load:
        load.more()
        assert min(calls_of(first), calls_of(second)) > 0
        second.kill()
        load.more(500)
        containers.wait_until(lambda: second.restart_count == 1, what="a restart")
        second.wait_healthy()
        load.more()


def test_replicas_are_restarted_one_by_one_without_a_failed_call(eager, run):
    replicas = eager.up(2)
    with LoadWithin(run, eager.network, TARGET) as load:
        for replica in replicas:
            replica.restart()
            load.more()


def test_an_upgrade_fails_no_call_and_a_client_of_another_version_is_told_why(engine, image, eager, run):
    """Replicas of a newer image are added, then the old ones are stopped; both refuse what neither knows, and go on."""
    old = eager.up(2)
    engine.client.images.get(image).tag(NEXT)
    stranger = pb.EvaluateRequest.FromString(UNHEARD_OF)
    with LoadWithin(run, eager.network, TARGET) as load:
        every = eager.up(4, image=NEXT, options=["--no-recreate"])
        for replica in every:
            error = refusal(replica.address, stranger)
            assert type(error) is ArgumentError
            assert "needed fields that this server knows, got the unknown field 100" in error.message
        for replica in old:
            assert replica.stop() == 0
            replica.remove()
            load.more()
        assert len(eager.replicas()) == 2
        load.more()


def calls_of(replica):
    """How many evaluations a replica has finished, as its metrics tell."""
    text = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:50053/metrics').read().decode())"
    lines = replica.python(text).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('gradwire_call_seconds_count{code="OK",rpc="Evaluate'))


def refusal(address, request):
    """The error that a server answers a raw request with."""
    with grpc.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            pb_grpc.DifferentiationServiceStub(channel).Evaluate(request, timeout=containers.PATIENCE_S)
        (details,) = [value for key, value in raised.value.trailing_metadata() if key == "grpc-status-details-bin"]
        return decode_status(Status.FromString(details))


def test_load_tells_what_fails(run):
    """These tests can fail: what is asked of a server that is gone counts."""
    container = run()
    load = containers.Load(container.address, unreachable_s=0.1)
    with pytest.raises(AssertionError, match="UnreachableError"), load:
        container.stop()
