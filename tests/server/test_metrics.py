import sys

import pytest
from prometheus_client import CollectorRegistry

from gradwire_server import metrics
from gradwire_server.config import ConfigError
from gradwire_server.exposition import Sum, add_samples, encode_samples, keep_totals, make_metrics, serving_metrics


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


def test_what_the_pool_observes_is_told():
    found = make_metrics("127.0.0.1:0")
    found.observe_batch(3)
    for seconds in (0.1, 0.2, 0.3):
        found.observe_wait(seconds)
        found.observe_evaluation(0.1, seconds, was_cached=seconds > 0.1)
    told = {
        sample.name + str(sample.labels.get("cache", "")): sample.value for m in found.registry.collect() for sample in m.samples
    }
    assert (told["gradwire_batch_size_count"], told["gradwire_batch_size_sum"]) == (1, 3)
    assert told["gradwire_queue_seconds_sum"] == pytest.approx(0.6)
    assert told["gradwire_predicted_seconds_total"] == pytest.approx(0.3)
    assert told["gradwire_evaluation_seconds_total"] == pytest.approx(0.6)
    assert told["gradwire_prediction_ratio_sum"] == pytest.approx(6.0)
    assert (told["gradwire_executables_totalhit"], told["gradwire_executables_totalmiss"]) == (2, 1)


def test_counts_that_others_keep_are_read_when_metrics_are():
    made, counts = make_metrics("127.0.0.1:0"), {"gradwire_sessions": 3, "gradwire_inline_evaluations": 5}
    made.watch({name: lambda name=name: counts[name] for name in counts})
    for expected in ((3, 5), (4, 6)):
        found = (
            made.registry.get_sample_value("gradwire_sessions"),
            made.registry.get_sample_value("gradwire_inline_evaluations_total"),
        )
        assert found == expected
        counts["gradwire_sessions"], counts["gradwire_inline_evaluations"] = 4, 6


def test_calls_are_counted_up_to_the_bound_of_each_bucket():
    made = make_metrics("127.0.0.1:0")
    for seconds in (0.0, 0.0005, 0.0006, 3.0, 99.0):
        made.observe_call("Evaluate", "OK", seconds)
    made.observe_call("Evaluate", "INTERNAL", 1.0)
    labels = {"rpc": "Evaluate", "code": "OK"}

    def count(bound: str) -> float | None:
        return made.registry.get_sample_value("gradwire_call_seconds_bucket", labels | {"le": bound})

    assert [count(bound) for bound in ("0.0005", "0.001", "2.5", "5.0", "10.0", "+Inf")] == [2, 3, 3, 4, 4, 5]
    assert made.registry.get_sample_value("gradwire_call_seconds_count", labels) == 5
    assert made.registry.get_sample_value("gradwire_call_seconds_sum", labels) == pytest.approx(102.0011)


def test_samples_of_several_processes_add_up_and_counts_of_those_that_ended_stay():
    parts = []
    for number in (1, 2):
        made = make_metrics("127.0.0.1:0")
        made.set_queue_length(number)
        for _ in range(number):
            made.observe_call("Evaluate", "OK", 0.25)
        parts.append(encode_samples(made.registry))
    page = CollectorRegistry()
    page.register(Sum(lambda: parts))
    labels = {"rpc": "Evaluate", "code": "OK"}
    for queue_length, ended in ((3, parts[1]), (1, keep_totals(add_samples([parts[1]])))):
        parts[1] = ended
        assert page.get_sample_value("gradwire_call_seconds_count", labels) == 3
        assert page.get_sample_value("gradwire_call_seconds_sum", labels) == 0.75
        assert page.get_sample_value("gradwire_queue_length") == queue_length
