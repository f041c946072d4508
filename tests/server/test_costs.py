import pytest

from gradwire_server.costs import Costs
from gradwire_server.frames import Prediction

PREDICTED = Prediction(0.5, 1000)


def test_what_is_predicted_is_expected_until_it_is_measured():
    costs = Costs()
    assert costs.expect(b"key", None) == Prediction(0.0, 0)
    assert costs.expect(b"key", PREDICTED) == PREDICTED
    costs.learn(b"key", PREDICTED, 0.1)
    assert costs.expect(b"key", PREDICTED) == Prediction(0.1, 1000)
    assert costs.expect(b"other", PREDICTED) == PREDICTED


def test_measurements_are_averaged_and_the_last_count_most():
    costs = Costs()
    for seconds in (0.1, 0.1, 0.2, 0.2):
        costs.learn(b"key", PREDICTED, seconds)
    assert 0.125 < costs.expect(b"key", None).seconds < 0.2


def test_what_has_no_key_is_expected_to_be_as_others_without():
    costs = Costs()
    for _ in range(50):
        costs.learn(None, None, 0.1)
    assert costs.expect(None, None).seconds == pytest.approx(0.1, rel=0.01)
