import sys

import pytest

from gradwire_server import metrics
from gradwire_server.config import ConfigError, ServerConfig


def test_without_an_address_nothing_is_counted_or_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert isinstance(metrics.make_metrics(ServerConfig()), metrics.NoMetrics)


def test_what_counts_has_the_methods_of_what_does_not():
    names = {name for name in vars(metrics.Metrics) if not name.startswith("_")}
    assert names == {name for name in vars(metrics.NoMetrics) if not name.startswith("_")}
    assert names == {name for name in vars(metrics.PrometheusMetrics) if not name.startswith("_")}


def test_metrics_need_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match="pip install"):
        metrics.make_metrics(ServerConfig(metrics_listen="127.0.0.1:0"))


def test_an_address_in_use_is_refused():
    served = metrics.make_metrics(ServerConfig(metrics_listen="127.0.0.1:0"))
    try:
        with pytest.raises(ConfigError, match="Address already in use"):
            metrics.make_metrics(ServerConfig(metrics_listen=f"127.0.0.1:{served.port}"))
    finally:
        served.close()
