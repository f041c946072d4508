"""The report: what it says without a browser; what a browser makes of it; and nothing from anywhere else."""

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from gradwire_load.charts import SMALL, Series, draw, linear, logarithmic, number_text, percentiles, script_json
from gradwire_load.report import render
from tests.load.results import empty_result, full_result, plain_result

RESULTS = {"full": full_result, "plain": plain_result, "empty": empty_result}
TIMES = ["Latency by percentile", "Throughput over time", "Latency over time"]
REST = ["Operations", "The server's metrics", "The generator", "Settings"]
SECTIONS = {
    "full": ["Objectives", "Saturation point", *TIMES, "Errors by reason", *REST],
    "plain": [*TIMES, "Errors", *REST],
    "empty": ["Objectives", *TIMES, "Errors by reason", *REST],
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER_PATIENCE_S = 90
VOID = {"meta", "line", "circle", "br", "path"}


class Balance(HTMLParser):
    """Checks that elements are closed in order."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.texts = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.texts.append(data)


@pytest.fixture(scope="module", params=RESULTS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def page(kind):
    return render(RESULTS[kind]())


def test_the_page_has_its_sections_and_is_well_formed(page, kind):
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert parser.texts == SECTIONS[kind]


def test_the_page_loads_nothing(page):
    shown = re.sub(r"<script type=.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(?:src|href)\s*=|@import|url\(|https?://(?!www\.w3\.org)""", shown)


def test_what_the_server_said_is_text():
    page = render(full_result())
    assert "<script>alert" not in page
    assert html.escape("queue: <script>alert(1)</script> & more") in page


def test_the_result_within_the_page_is_the_result():
    result = full_result()
    (held,) = re.findall(r'<script type="application/json" id="result">(.*?)</script>', render(result), re.DOTALL)
    assert json.loads(held) == json.loads(json.dumps(result))


def test_a_result_is_json_and_draws_the_same_page_again():
    result = full_result()
    text = json.dumps(result, allow_nan=False)
    assert render(json.loads(text)) == render(result)


def test_what_is_reported_is_what_happened():
    result = full_result()
    ended = result["requests"]["ended"]
    assert result["verdict"] == {"code": 1, "name": "missed", "text": "Missed p99 <= 20 ms, errors <= 0."}
    assert {item["reason"] for item in result["errors"]} == {"OVERLOADED", "INTERNAL"}
    assert sum(item["count"] for item in result["errors"]) == result["requests"]["failed"] == -(-ended // 50)
    assert 0 <= ended - sum(result["seconds"]["answered"]) - sum(result["seconds"]["failed"]) <= 5  # some end after the last second
    assert sum(result["seconds"]["sent"]) == ended
    assert result["requests"]["offered_per_s"] == pytest.approx(300.0)
    assert sum(result["seconds"]["due"]) == pytest.approx(2400.0)
    assert [item["name"] for item in result["operations"]] == [
        "option prices",
        "logistic regression",
        "Rosenbrock, Hessian times vector",
    ]


# -- charts --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "names"),
    [
        (linear(0.0, 93.0, (0.0, 1.0)), ["0", "20", "40", "60", "80", "100"]),
        (linear(0.0, 0.0, (0.0, 1.0)), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (linear(0.0, 30.0, (0.0, 1.0), " s", 6, is_rounded=False), ["0 s", "5 s", "10 s", "15 s", "20 s", "25 s", "30 s"]),
        (logarithmic(3.0, 40.0, (0.0, 1.0), " ms"), ["2 ms", "5 ms", "10 ms", "20 ms", "50 ms"]),
        (percentiles(99.95, (0.0, 1.0)), ["min", "50 %", "90 %", "99 %", "99.9 %"]),
    ],
)
def test_scales_have_round_ticks(scale, names):
    assert [name for _, name in scale.ticks] == names
    assert scale.place(scale.low) == scale.start
    assert scale.place(scale.high) == scale.stop


def test_each_further_nine_is_as_far():
    scale = percentiles(99.9999, (0.0, 600.0))
    places = [scale.place(100.0 / (100.0 - percent)) for percent in (90.0, 99.0, 99.9, 99.99)]
    assert places == [100.0, 200.0, 300.0, 400.0]


def test_a_gap_breaks_a_line():
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, None), (3.0, 1.0), (4.0, 2.0)]
    drawn = draw(SMALL, [Series("a", points)], linear(0.0, 4.0, SMALL.across), linear(0.0, 2.0, SMALL.upward))
    assert drawn.count('<path class="line') == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.25, "0.25"), (12.34, "12.3"), (1234.0, "1234"), (34_000.0, "34k"), (5e6, "5M"), (1e-5, "1.0e-05")],
)
def test_numbers_are_short(value, text):
    assert number_text(value) == text


def test_json_within_a_script_ends_no_script():
    assert "</script" not in script_json({"text": "</script><script>"})


# -- in a browser --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: needs one of {', '.join(BROWSERS)}, such as Debian's package chromium")
    return found


def run_browser(browser, folder, *arguments):
    command = [browser, "--headless", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--window-size=1240,2000"]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no other way; the page is ours
    command += ["--virtual-time-budget=2000", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=BROWSER_PATIENCE_S, check=True)
    return done.stdout.decode("utf-8")


def test_a_browser_draws_the_report(browser, tmp_path):
    """The document that the browser has after the script ran: the drawing is there, and the script met no error."""
    path = tmp_path / "report.html"
    path.write_text(render(full_result()), "utf-8")
    document = run_browser(browser, tmp_path, "--dump-dom", path.as_uri())
    (root,) = re.findall(r"<html[^>]*>", document)
    assert "data-error" not in root
    charts = document.count('class="plot"')
    assert charts == 5
    assert f'data-ready="{charts}"' in root  # each has what tells its values
    paths = re.findall(r'<path class="(?:line|dashed|area) c\d" d="(M[^"]+)"', document)
    assert len(paths) >= 10
    assert all("NaN" not in path and "Infinity" not in path for path in paths)
    assert document.count("<circle") >= 5


def test_a_browser_paints_it(browser, tmp_path):
    """The picture is no blank page."""
    path, picture = tmp_path / "report.html", tmp_path / "report.png"
    path.write_text(render(full_result()), "utf-8")
    run_browser(browser, tmp_path, f"--screenshot={picture}", path.as_uri())
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 60_000
