import sys

import pytest

from gradwire_server import metrics
from gradwire_server.config import ConfigError
from gradwire_server.exposition import make_metrics, serving_metrics


def test_without_an_address_nothing_is_counted_or_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert isinstance(make_metrics(""), metrics.NoMetrics)


def test_what_counts_has_the_methods_of_what_does_not():
    names = {name for name in vars(metrics.Metrics) if not name.startswith("_")}
    assert names == {name for name in vars(metrics.NoMetrics) if not name.startswith("_")}
    assert names == {name for name in vars(metrics.PrometheusMetrics) if not name.startswith("_")}


def test_metrics_need_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match="pip install"):
        make_metrics("127.0.0.1:0")


def test_an_address_in_use_is_refused():
    registry = make_metrics("127.0.0.1:0").registry
    with serving_metrics("127.0.0.1:0", registry) as page, pytest.raises(ConfigError, match="Address already in use"):
        serving_metrics(f"127.0.0.1:{page.port}", registry).__enter__()
