"""The settings of a client: from the environment, from the call, and checked once."""

import pytest

import gradwire as gw


def test_the_call_wins_over_the_environment():
    environ = {"GRADWIRE_TIMEOUT_S": "2.5", "GRADWIRE_REPRODUCIBLE": "true", "GRADWIRE_RETRY_COUNT": "0", "HOME": "/"}
    config = gw.ClientConfig.from_environ(environ, timeout_s=4.0)
    assert config == gw.ClientConfig(timeout_s=4.0, reproducible=True, retry_count=0)
    assert gw.ClientConfig.from_environ({}) == gw.ClientConfig()


@pytest.mark.parametrize(
    ("environ", "given", "text"),
    [
        ({"GRADWIRE_TIMEOUT_S": "soon"}, {}, "GRADWIRE_TIMEOUT_S: needed a float, got 'soon'; correct the variable"),
        ({"GRADWIRE_REPRODUCIBLE": "maybe"}, {}, "GRADWIRE_REPRODUCIBLE: needed a bool, got 'maybe'"),
        ({}, {"timeout": 3}, "connect: needed a setting among timeout_s, .* got timeout; correct its name"),
        ({}, {"timeout_s": 0}, "ClientConfig.timeout_s: needed a positive number, got 0"),
        ({}, {"timeout_s": float("nan")}, "ClientConfig.timeout_s: needed a positive number, got nan"),
        ({}, {"retry_count": -1}, "ClientConfig.retry_count"),
    ],
)
def test_malformed_settings_are_refused(environ, given, text):
    with pytest.raises(gw.ArgumentError, match=text):
        gw.ClientConfig.from_environ(environ, **given)


@pytest.mark.parametrize("target", ["", "  ", None, 50051])
def test_a_target_is_an_address(target):
    with pytest.raises(gw.ArgumentError, match="connect: needed a target such as 'localhost:50051'"):
        gw.connect(target)
