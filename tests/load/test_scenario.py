"""Scenarios are read whole or refused by name; the shipped ones are what they say."""

import pytest

from gradwire_core.errors import ArgumentError
from gradwire_load.arrivals import Step
from gradwire_load.scenario import Input, find_scenario, override, read_scenario, shipped
from gradwire_load.slo import read_objectives

SHORT = """
duration_s = 10
[arrivals]
rate = 100
[[mix]]
program = "rosenbrock"
want = ["value", "grad"]
"""


def test_the_shipped_scenarios():
    assert list(shipped()) == ["calibration", "flow-training", "jacobian-heavy", "large-tensors", "overload", "smoke"]


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_scenario_is_complete(name):
    scenario = find_scenario(name)
    assert scenario.name == name
    assert scenario.title
    assert scenario.about
    assert read_objectives(scenario.slo)
    assert scenario.text.startswith("# ")


def test_defaults():
    scenario = read_scenario(SHORT, "mine")
    assert scenario.arrivals.kind == "poisson"
    assert scenario.arrivals.steps == (Step(10.0, 100.0),)
    assert (scenario.title, scenario.mode, scenario.processes, scenario.operations[0].name) == ("mine", "unary", 1, "rosenbrock")


def test_inputs_of_an_expression():
    text = SHORT.replace(
        'program = "rosenbrock"', 'expression = "x * y"\ninputs = { x = [3], y = { shape = [], low = 1, high = 2 } }'
    )
    assert read_scenario(text, "mine").operations[0].inputs == {"x": Input((3,)), "y": Input((), 1.0, 2.0)}


def test_a_file_is_found(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(SHORT)
    assert find_scenario(str(path)).name == "own"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rate = 100", "rat = 100", r"mine.arrivals.rate: needed a value"),
        ("rate = 100", "rate = 100\nspeed = 1", r"mine.arrivals: needed settings that exist, got speed"),
        ("rate = 100", "rate = 0", r"mine.arrivals.rate: needed a number above 0, got 0"),
        ("rate = 100", "kind = 'closed'", r"mine.arrivals.in_flight: needed a value"),
        ("rate = 100", "kind = 'often'\nrate = 1", r"needed one of poisson, uniform, closed, got 'often'"),
        ("rate = 100", "steps = [{ rate = 1, for_s = 1 }]", r"needed no duration_s beside steps"),
        ("duration_s = 10", "duratoin_s = 10", r"got duratoin_s; the nearest is duration_s"),
        ("duration_s = 10", "check = 2", r"mine.check: needed a number of 0 or more and of at most 1, got 2"),
        ("duration_s = 10", "mode = 'udp'", r"needed one of unary, stream, got 'udp'"),
        ("duration_s = 10", "processes = 0", r"mine.processes: needed a whole number of 1 or more, got 0"),
        ("duration_s = 10", "duration_s = ", r"mine: needed TOML"),
        ('program = "rosenbrock"', "", r"mine.mix\[0\]: needed either program or expression, got neither"),
        ('want = ["value", "grad"]', 'want = ["gard"]', r"mine.mix\[0\].want: needed names among value, .*, got 'gard'"),
        ('want = ["value", "grad"]', "inputs = { x = [-1] }", r"mix\[0\].inputs.x: needed a shape"),
        ('want = ["value", "grad"]', "inputs = { x = { shape = [1], low = 2 } }", r"needed low and high"),
        ("[[mix]]", "[mix]", r"mine.mix: needed tables"),
        ('want = ["value", "grad"]', '[[mix]]\nprogram = "rosenbrock"', r"needed another name for each"),
    ],
)
def test_what_is_malformed_is_refused_by_its_place(old, new, said):
    assert old in SHORT
    with pytest.raises(ArgumentError, match=said):
        read_scenario(SHORT.replace(old, new), "mine")


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ArgumentError, match="got 'calibratoin'; the nearest is calibration"):
        find_scenario("calibratoin")
    with pytest.raises(ArgumentError, match="needed a file that can be read"):
        find_scenario("nowhere.toml")


def test_settings_are_overridden():
    overload = find_scenario("overload")
    half = override(overload, duration_s=overload.arrivals.duration_s / 2, mode="stream", check=None)
    assert [step.for_s for step in half.arrivals.steps] == [step.for_s / 2 for step in overload.arrivals.steps]
    assert (half.mode, half.check) == ("stream", overload.check)
    assert override(overload, rate=5.0).arrivals.steps == (Step(overload.arrivals.duration_s, 5.0),)
    assert override(find_scenario("smoke"), in_flight=2).arrivals.mean_level == 2
    with pytest.raises(ArgumentError, match="--rate, got closed"):
        override(find_scenario("smoke"), rate=5.0)
