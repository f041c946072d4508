"""What watches a server: the rules wake somebody for what they should, and nothing asks for a metric that is not told."""

import json
import re
import socket
import subprocess
import urllib.request

import pytest

from tests.containers.engine import ROOT
from tests.server.processes import serving

FOLDER = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "gradwire.json"
TEXTS = [FOLDER / "rules.yml", FOLDER / "rules_test.yml", DASHBOARD]
PANEL = {"id", "type", "title", "description", "datasource", "gridPos", "fieldConfig", "options", "targets"}


@pytest.fixture(scope="module")
def told():
    """The names of the series that a server tells, as Prometheus reads them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with serving("--workers", "1", "--metrics-listen", address), urllib.request.urlopen(f"http://{address}/metrics") as answer:
        text = answer.read().decode()
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        suffixes = {"histogram": ("_bucket", "_count", "_sum")}.get(kind, ("",))
        found |= {name + suffix for suffix in suffixes}
    return found


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_metric_that_is_asked_for_is_told(path, told):
    asked = set(re.findall(r"\bgradwire_[a-z_]+", path.read_text(encoding="utf-8")))
    assert asked
    assert asked <= told


def test_the_configuration_is_valid_and_the_rules_do_what_their_tests_say(needs):
    for arguments in (["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run([needs("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_both_ways_and_says_what_to_do(needs):
    yaml = needs("yaml", "package")
    rules = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    quiet, loud = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    assert {case["alertname"] for case in quiet["alert_rule_test"] if not case.get("exp_alerts")} == set(alerts)
    assert {case["alertname"] for case in loud["alert_rule_test"] if case.get("exp_alerts")} == set(alerts)
    for rule in alerts.values():
        assert {"summary", "description"} == set(rule["annotations"])
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_the_page_says_of_every_metric_and_every_alert_what_to_do(needs, told):
    yaml = needs("yaml", "package")
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    assert all(len(row) == 3 and all(row) for row in rows)
    said = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    rules = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
    metrics = {re.sub("_(bucket|count|sum)$", "", name) for name in told if not name.endswith("_created")}
    assert said == metrics | {rule["alert"] for rule in rules if "alert" in rule}


def test_a_rule_that_is_wrong_fails_its_test(needs, tmp_path):
    for path in FOLDER.glob("rules*.yml"):
        (tmp_path / path.name).write_text(path.read_text().replace("avg by (job) (gradwire_queue_length) > 16", "vector(1) < 0"))
    done = subprocess.run([needs("promtool"), "test", "rules", "rules_test.yml"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode != 0
    assert b"GradwireQueueLong" in done.stdout + done.stderr


def test_the_dashboard_is_one_that_grafana_reads():
    """Its schema is not to be had as a package; this checks what the panels of this kind need."""
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert board["uid"] == "gradwire"
    assert board["schemaVersion"] >= 39
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    names = {variable["name"] for variable in board["templating"]["list"]} | {"__rate_interval"}
    places = set()
    for panel in board["panels"]:
        assert set(panel) == PANEL
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & places
        assert max(x for x, _ in cells) < 24
        places |= cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(board))) == names


def test_every_query_of_the_dashboard_parses(needs, tmp_path):
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    rules = [{"record": f"q:{n}", "expr": query.replace("$__rate_interval", "1m")} for n, query in enumerate(queries)]
    yaml = needs("yaml", "package")
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run([needs("promtool"), "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(queries)} rules found" in done.stdout


def test_what_is_mounted_is_what_is_provisioned(needs):
    yaml = needs("yaml", "package")
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards" / "gradwire.yml").read_text())["providers"]
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in services["grafana"]["volumes"])
    assert mounts[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    assert mounts["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "deploy" / "grafana" / "dashboards" / home.rpartition("/")[2]).exists()
    assert source["url"] == "http://prometheus:9090"
    (scraped,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    (found,) = scraped["dns_sd_configs"]
    assert found["names"] == ["server"]
    assert services["server"]["environment"]["GRADWIRE_METRICS_LISTEN"].endswith(f":{found['port']}")
