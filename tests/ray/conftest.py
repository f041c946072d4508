"""A cluster of three nodes on this machine, each a raylet with one processor and little memory, on the loopback alone.

This process is part of the first, whose end would be the end of the cluster.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile

import pytest

os.environ |= {  # before Ray is imported
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else it serves on the address of the machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # processes that no actor of ours could use
}

pytest.importorskip("ray", reason='needs Ray, which is not here: pip install "gradwire[ray]"')

_AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port")
_NODE = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 120 * 2**20, "include_dashboard": False}
_NODES = 3
_ATTEMPTS = 3


class Nodes:
    """The nodes of a cluster."""

    def __init__(self, cluster) -> None:
        self._cluster = cluster
        self.address: str = cluster.address
        self.first: str = cluster.head_node.node_id

    def add(self) -> None:
        again(lambda: self._cluster.add_node(**node()))

    def kill(self, node_id: str) -> None:
        """End all processes of a node at once."""
        (node,) = (node for node in self._cluster.worker_nodes if node.node_id == node_id)
        self._cluster.remove_node(node, allow_graceful=False)


def node() -> dict:
    """The settings of a node. A raylet that is told no ports for its agents ends if they do not tell theirs in seconds."""
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in _AGENT_PORTS]
        return _NODE | {name: item.getsockname()[1] for name, item in zip(_AGENT_PORTS, free, strict=True)}


def again(start):
    """Start a node. A raylet gives its agents 15 s, which is little where much else runs: what has not come then is tried again."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(Exception):  # Ray raises no other
            return start()
    return start()


@pytest.fixture(scope="session")
def nodes():
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-")  # the names of sockets in it must be short
    first = {"temp_dir": folder, "include_log_monitor": False, "no_monitor": True}
    cluster = again(lambda: Cluster(initialize_head=True, head_node_args=node() | first))
    try:
        found = Nodes(cluster)
        for _ in range(_NODES - 1):
            found.add()
        yield found
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]
