"""The server's metrics become series: gauges as they are, counters a second, histograms as calls a second and their mean."""

import itertools

import prometheus_client
import pytest

from gradwire_core.errors import ArgumentError
from gradwire_load.scrape import Scraper, normal_url

TEXT = """# HELP gradwire_queue_length Tasks that wait.
# TYPE gradwire_queue_length gauge
gradwire_queue_length {queue}
# HELP gradwire_task_retries_total Tasks run again.
# TYPE gradwire_task_retries_total counter
gradwire_task_retries_total {count}
# HELP gradwire_call_seconds Seconds.
# TYPE gradwire_call_seconds histogram
gradwire_call_seconds_bucket{{code="OK",le="+Inf"}} {count}
gradwire_call_seconds_count{{code="OK"}} {count}
gradwire_call_seconds_sum{{code="OK"}} {sum}
# HELP other_thing Not ours.
# TYPE other_thing gauge
other_thing 1
"""


def scraped(texts, *, urls=("127.0.0.1:1",), seconds=None):
    """What is read of texts, one a second."""
    given = iter(texts)
    scraper = Scraper(urls, lambda _: next(given))
    for number in range(seconds or len(texts)):
        scraper.read()
        if len(scraper.readings) == number + 1:
            scraper.readings[-1] = scraper.readings[-1]._replace(second=100.0 + number)
    return scraper.summary(100.0, 110.0)


def test_series_by_kind():
    texts = [TEXT.format(queue=queue, count=count, sum=total) for queue, count, total in ((3, 0, 0), (5, 100, 0.5), (0, 300, 2.5))]
    found = scraped(texts)
    assert found["problem"] == ""
    assert found["t"] == [0.0, 1.0, 2.0]
    assert {chart["name"]: (chart["unit"], chart["series"][0]["values"]) for chart in found["charts"]} == {
        "gradwire_call_seconds": ("/s", [None, 100.0, 200.0]),
        "gradwire_call_seconds (mean)": ("ms", [None, pytest.approx(5.0), pytest.approx(10.0)]),
        "gradwire_queue_length": ("", [3.0, 5.0, 0.0]),
        "gradwire_task_retries": ("/s", [None, 100.0, 200.0]),
    }


def test_the_values_of_several_replicas_are_added_up():
    texts = [TEXT.format(queue=queue, count=1, sum=1) for queue in (3, 4)]
    found = scraped(texts, urls=("a:1", "b:2"), seconds=1)
    assert [chart["series"][0]["values"] for chart in found["charts"] if chart["name"] == "gradwire_queue_length"] == [[7.0]]


def test_a_server_that_was_restarted_gives_no_negative_rate():
    found = scraped([TEXT.format(queue=0, count=count, sum=1) for count in (100, 20, 50)])
    (values,) = [chart["series"][0]["values"] for chart in found["charts"] if chart["name"] == "gradwire_task_retries"]
    assert values == [None, None, 30.0]


def test_what_cannot_be_read_is_told():
    def fail(_):
        raise ConnectionRefusedError("Connection refused")

    scraper = Scraper(["127.0.0.1:1"], fail)
    scraper.read()
    assert scraper.summary(0.0, 1.0) == {"problem": "http://127.0.0.1:1/metrics: Connection refused", "t": [], "charts": []}


def test_metrics_are_read_over_http():
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Gauge("gradwire_queue_length", "Tasks that wait.", registry=registry).set(4)
    prometheus_client.Gauge("other_thing", "Not ours.", registry=registry).set(1)
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    try:
        scraper = Scraper([f"127.0.0.1:{server.server_port}"])
        scraper.read()
        assert scraper.problem == ""
        assert scraper.readings[0].samples == {("gradwire_queue_length", "gauge", "Tasks that wait."): {"|": 4.0}}
        missing = Scraper([f"127.0.0.1:{server.server_port}", "127.0.0.1:1"])
        missing.read()
        assert missing.readings == []
        assert "127.0.0.1:1/metrics" in missing.problem
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        ("127.0.0.1:9", "http://127.0.0.1:9/metrics"),
        ("http://[::1]:9", "http://[::1]:9/metrics"),
        ("https://host/own/path", "https://host/own/path"),
    ],
)
def test_addresses(given, whole):
    assert normal_url(given) == whole


@pytest.mark.parametrize("given", ["", "ftp://host/x", "host:99999", "http://"])
def test_what_is_no_address_is_refused(given):
    with pytest.raises(ArgumentError, match="--metrics-url"):
        normal_url(given)


def test_every_family_is_read_once_a_second_and_ends(monkeypatch):
    monkeypatch.setattr("gradwire_load.scrape.EVERY_S", 0.01)
    counts = itertools.count()
    with Scraper(["h:1"], lambda _: TEXT.format(queue=next(counts), count=1, sum=1)) as scraper:
        scraper._thread.join(0.2)
    assert not scraper._thread.is_alive()
    assert len(scraper.readings) > 1
