"""The chart: what it renders is valid for every Kubernetes it names, is what the server reads, and runs."""

import functools
import json
import re
import shutil
import subprocess

import pytest

import gradwire as gw
from gradwire_core.errors import UnauthenticatedError
from gradwire_server.config import ServerConfig
from tests.containers.engine import ROOT
from tests.server.secure import Authority

CHART = ROOT / "deploy" / "helm" / "gradwire"
OLDEST, NEWEST = "1.25.0", "1.37.0"
MEBIBYTE = 2**20
ALICE = "0123456789abcdef"
CASES = {
    "plaintext": {"insecure": True},
    "encrypted": {"tls": {"secretName": "proof"}},
    "mutual": {"tls": {"secretName": "proof", "clientCa": True}, "tokens": {"secretName": "who"}},
    "all": {
        "tls": {"secretName": "proof", "clientCa": True},
        "tokens": {"entries": {"alice": ALICE, "bob": "sha256:" + "0" * 64}},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "settings": {"max_message_bytes": 134217728, "default_timeout_s": 2.5, "reflection": False},
        "cpuLimit": 3,
        "workers": 3,
        "imagePullSecrets": [{"name": "registry"}],
        "podAnnotations": {"a": "b"},
        "podLabels": {"team": "risk"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "batch", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "disruptionBudget": {"maxUnavailable": "25%"},
    },
    "little": {
        "insecure": True,
        "autoscaling": {"enabled": False},
        "disruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "drainSeconds": 0,
        "graceSeconds": 0,
        "replicas": 1,
    },
}


@pytest.fixture(scope="module")
def render(needs, tmp_path_factory):
    """Render the chart with values; give the objects by their kind, or raise what helm says."""
    yaml = needs("yaml", "package")
    helm = needs("helm")

    @functools.cache
    def rendered(text):
        path = tmp_path_factory.mktemp("values") / "values.json"
        path.write_text(text)
        command = [helm, "template", "release", str(CHART), "--values", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ValueError(done.stderr)
        return done.stdout

    def objects(values):
        return {each["kind"]: each for each in yaml.safe_load_all(rendered(json.dumps(values))) if each}

    return objects


@pytest.fixture(params=CASES)
def values(request):
    return CASES[request.param]


def container_of(objects):
    (found,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    return found


def config_of(objects):
    """What the server makes of the variables that it is given."""
    return ServerConfig.from_environ({each["name"]: each["value"] for each in container_of(objects)["env"]})


def test_helm_finds_nothing_to_object_to(needs):
    done = subprocess.run(
        [needs("helm"), "lint", "--strict", str(CHART), "--set", "insecure=true"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_is_valid_to_the_schema_of_kubernetes(needs, render, values, version):
    validate = needs("kubernetes_validate", "package").validate
    objects = render(values)
    assert {"Deployment", "Service"} <= set(objects)
    for kind, each in objects.items():
        if kind != "ServiceMonitor":  # no kind of Kubernetes itself
            validate(each, version, strict=True)


def test_the_schema_finds_what_is_wrong(needs, render):
    package = needs("kubernetes_validate", "package")
    wrong = render(CASES["plaintext"])["Deployment"]
    container_of({"Deployment": wrong})["readinesProbe"] = {}
    with pytest.raises(package.ValidationError):
        package.validate(wrong, NEWEST, strict=True)


def test_the_monitor_is_valid_to_the_types_of_the_operator(needs, render):
    """They come as a package of npm's, which checks an object by the schema that the operator publishes."""
    node = needs("node")
    models = ROOT / ".cache" / "models"
    if not models.exists():
        needs("the types of the Prometheus operator")
    monitor = render(CASES["all"])["ServiceMonitor"]
    script = "import { ServiceMonitor as M } from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1';"
    script += "new M(JSON.parse(process.argv[1])).validate()"

    def check(thing):
        command = [node, "--input-type=module", "--eval", script, json.dumps(thing)]
        return subprocess.run(command, cwd=models, capture_output=True, text=True, check=False)

    done = check(monitor)
    assert done.returncode == 0, done.stderr
    assert check(monitor | {"spec": {"endpoints": 7}}).returncode != 0


def test_the_server_takes_every_setting(render, values):
    config = config_of(render(values))
    assert config.workers == values.get("workers", 2)
    assert bool(config.tls_cert_file) == bool(values.get("tls"))
    assert bool(config.tls_client_ca_file) == bool(values.get("tls", {}).get("clientCa"))
    assert bool(config.token_file) == bool(values.get("tokens"))
    for name, value in values.get("settings", {}).items():
        assert getattr(config, name) == value


def test_what_a_replica_asks_for_follows_from_its_workers(render, values):
    objects = render(values)
    config, resources = config_of(objects), container_of(objects)["resources"]
    memory = int(resources["limits"]["memory"].removesuffix("Mi")) * MEBIBYTE
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert memory - config.workers * config.worker_memory_limit_bytes == 768 * MEBIBYTE
    assert 2 * config.max_peak_bytes + config.executable_cache_bytes <= config.worker_memory_limit_bytes
    assert resources["requests"]["cpu"] == f"{500 + 1000 * config.workers}m"
    more = render({"insecure": True, "workers": 8, "workerMemoryMiB": 2048})
    assert container_of(more)["resources"]["requests"] == {"cpu": "8500m", "memory": f"{768 + 8 * 2048}Mi"}


def test_probes_ask_by_grpc_where_health_is_told(render, values):
    objects = render(values)
    container, config = container_of(objects), config_of(objects)
    port = int(config.health_listen.rpartition(":")[2])
    assert [container[f"{kind}Probe"]["grpc"]["port"] for kind in ("startup", "readiness", "liveness")] == [port] * 3
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports["health"] == port
    assert ports["grpc"] == int(config.listen.rpartition(":")[2])
    assert ports["metrics"] == int(config.metrics_listen.rpartition(":")[2])


def test_a_replica_is_given_the_time_that_it_takes_to_drain(render, values):
    objects = render(values)
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (pause,) = map(int, re.findall(r"sleep\((\d+)\)", json.dumps(container_of(objects).get("lifecycle", "sleep(0)"))))
    assert pod["terminationGracePeriodSeconds"] >= pause + config_of(objects).grace_s + 5


def test_the_service_names_every_replica_and_selectors_meet(render):
    objects = render(CASES["all"])
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service"]["spec"]["clusterIP"] == "None"
    assert labels["team"] == "risk"
    selectors = [
        objects["Service"]["spec"]["selector"],
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    monitored = objects["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= objects["Service"]["metadata"]["labels"].items()
    assert {each["port"] for each in objects["ServiceMonitor"]["spec"]["endpoints"]} == {"metrics"}
    assert objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]


def test_replicas_are_scaled_by_their_queues_and_not_by_the_chart(render):
    objects = render(CASES["plaintext"])
    assert "replicas" not in objects["Deployment"]["spec"]
    (metric,) = objects["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "gradwire_queue_length"
    assert metric["pods"]["metric"]["name"] in (ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
    little = render(CASES["little"])
    assert little["Deployment"]["spec"]["replicas"] == 1
    assert not {"HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"} & set(little)


def test_nothing_goes_out_and_only_callers_come_in(render):
    policy = render(CASES["plaintext"])["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": "grpc"}], [{"port": "metrics"}]]


def test_the_container_has_no_rights(render, values):
    objects = render(values)
    pod, guard = objects["Deployment"]["spec"]["template"]["spec"], container_of(objects)["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["automountServiceAccountToken"] is False
    assert guard == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "tls.secretName: needed a secret with tls.crt and tls.key, got none"),
        ({"insecure": True, "tls": {"clientCa": True}}, "tls.clientCa: needed tls.secretName beside it"),
        ({"insecure": True, "workers": 0}, "workers"),
        ({"insecure": True, "worker": 2}, "worker"),
        ({"insecure": True, "tokens": {"entries": {"alice": "short"}}}, "alice"),
    ],
)
def test_values_that_make_no_sense_are_refused(render, values, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        render(values)


def test_the_chart_has_the_version_of_the_project(needs):
    chart = needs("yaml", "package").safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == gw.__version__


def test_what_it_renders_runs(render, run, tmp_path):
    """The container of the chart, by the engine at hand: its variables, its mounts laid out as Kubernetes does, its guards."""
    objects = render({"tls": {"secretName": "proof"}, "tokens": {"entries": {"alice": ALICE}}, "drainSeconds": 1})
    container = container_of(objects)
    authority = Authority(tmp_path / "made")
    crt, key = authority.issue("localhost")
    held = {
        "tls": {"tls.crt": crt, "tls.key": key},
        "tokens": {"tokens": tmp_path / "tokens"},
    }
    (tmp_path / "tokens").write_text(objects["Secret"]["stringData"]["tokens"])
    volumes = {}
    for mount in container["volumeMounts"]:
        if mount["name"] in held:
            folder = tmp_path / "mounted" / mount["name"]
            (folder / "..1").mkdir(parents=True)
            (folder / "..data").symlink_to("..1")
            for name, source in held[mount["name"]].items():
                shutil.copy(source, folder / "..1" / name)
                (folder / "..1" / name).chmod(0o644)
                (folder / name).symlink_to(f"..data/{name}")
            volumes[str(folder)] = {"bind": mount["mountPath"], "mode": "ro"}
    memory = container["resources"]["limits"]["memory"].removesuffix("i").lower()
    served = run(environment={each["name"]: each["value"] for each in container["env"]}, volumes=volumes, mem_limit=memory)
    address = served.address.replace("127.0.0.1", "localhost")
    with gw.connect(address, ca_file=authority.ca_file, token=ALICE) as client:
        assert client.grad(lambda x: x**2)(3.0) == 6.0
    with gw.connect(address, ca_file=authority.ca_file) as client, pytest.raises(UnauthenticatedError):
        client.grad(lambda x: x**2)(3.0)
    program, *arguments = container["lifecycle"]["preStop"]["exec"]["command"]
    assert served.has(program)
    assert arguments[0] == "-c"
