"""Replicas on machines of their own: calls are shared among them, through the client or Envoy; some are lost, and no call fails."""

import subprocess

import pytest

from tests.containers.engine import wait_until
from tests.containers.machines import ENVOY_FILE, HUB_ADDRESS, Network
from tests.server.secure import Authority

CONNECTION_AGE_S = "3"
WAYS = ("by name", "by list", "by Envoy", "by Envoy in calls")


@pytest.fixture(scope="module")
def envoy(needs):
    return needs("envoy")


@pytest.fixture(scope="module", params=[2, 4], ids=lambda count: f"{count} replicas")
def network(request, needs):
    """Replicas that serve; a test leaves them serving."""
    needs_network(needs)
    with Network(request.param) as found:
        yield found


def needs_network(needs):
    needs("networks of machines, as root makes them", "right")
    needs("ip")
    needs("yaml", "package")


@pytest.fixture(scope="module")
def balanced(network, envoy):
    """The address of Envoy before the replicas, with a connection to each: where there is none yet, it counts no sessions."""
    address = network.envoy(envoy)
    counts = [each.call_count for each in network.replicas]
    with network.load(address, GRADWIRE_SESSIONS="no"):
        wait_until(lambda: shared(network, counts), what="calls")
    return address


@pytest.fixture(params=WAYS)
def load(request, network):
    """Callers that reach the replicas in one of the ways that there are."""
    settings = {"GRADWIRE_CONNECTION_AGE_S": CONNECTION_AGE_S}
    if request.param == "by name":
        return network.load(network.named, **settings)
    if request.param == "by list":
        return network.load(network.listed, **settings)
    return network.load(request.getfixturevalue("balanced"), GRADWIRE_SESSIONS=str("calls" not in request.param), **settings)


def shared(network, counts):
    """Whether every replica was called some times since it had so many calls."""
    return all(each.call_count > count + 20 for each, count in zip(network.replicas, counts, strict=True))


def test_calls_are_shared_and_one_replica_is_killed(network, load):
    counts = [each.call_count for each in network.replicas]
    lost = network.replicas[-1]
    with load:
        wait_until(lambda: shared(network, counts), what="calls")
        lost.kill()
        load.more(500)
        lost.serve()
        wait_until(lambda: lost.call_count > 20, what="calls of what came back")  # once connections are so old
    network.settle()


def test_replicas_are_restarted_one_by_one(network, load):
    with load:
        for replica in network.replicas:
            assert replica.stop() == 0
            load.more()
            replica.serve()
            network.settle()
            load.more()


@pytest.mark.parametrize("network", [2], ids=["2 replicas"], indirect=True)
def test_a_replica_that_nobody_can_reach_is_left(network, load):
    """Its machine is off the network: no connection is closed, nobody is told."""
    lost = network.replicas[-1]
    try:
        with load:  # its end waits for every answer
            lost.unplug()
            load.more(500)
    finally:
        lost.plug_in()
    network.settle()


# -- Envoy -------------------------------------------------------------------------------------------------------------------


def encrypted(text):
    """The variant of the configuration with certificates."""
    return text.replace("#tls ", "")


@pytest.fixture
def secrets(tmp_path):
    """The files that the encrypted variant names."""
    authority = Authority(tmp_path)
    authority.issue(HUB_ADDRESS, as_files=(tmp_path / "envoy.crt", tmp_path / "envoy.key"))
    authority.issue("gradwire", as_files=(tmp_path / "server.crt", tmp_path / "server.key"))
    return tmp_path


@pytest.mark.parametrize("variant", [str, encrypted], ids=["plaintext", "encrypted"])
def test_envoy_takes_the_configuration(envoy, variant, secrets):
    path = secrets / "envoy.yaml"
    path.write_text(variant(ENVOY_FILE.read_text()).replace("/etc/gradwire", str(secrets)))
    command = [envoy, "--mode", "validate", "--config-path", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr


def test_envoy_refuses_what_is_wrong(envoy, tmp_path):
    path = tmp_path / "envoy.yaml"
    path.write_text(ENVOY_FILE.read_text().replace("health_checks:", "health_check:"))
    command = [envoy, "--mode", "validate", "--config-path", str(path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_calls_travel_encrypted_to_envoy_and_from_there(needs, envoy, secrets):
    needs_network(needs)
    files = ("--tls-cert-file", str(secrets / "server.crt"), "--tls-key-file", str(secrets / "server.key"))
    with Network(1, *files) as network:
        text = encrypted(ENVOY_FILE.read_text()).replace("/etc/gradwire", str(secrets))
        with network.load(network.envoy(envoy, text), GRADWIRE_CA_FILE=str(secrets / "ca.pem")):
            assert network.replicas[0].call_count > 0
