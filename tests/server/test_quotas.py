"""What one identity may use, and that what it uses is its own."""

from __future__ import annotations

import pytest

from gradwire_core.errors import OverloadedError, QuotaError
from gradwire_server.capabilities import describe_capabilities
from gradwire_server.config import ServerConfig
from gradwire_server.quotas import Quotas


def quotas(clock=lambda: 0.0, **settings):
    return Quotas(ServerConfig(**{f"max_identity_{name}": value for name, value in settings.items()}), clock)


def test_calls_at_a_time_are_counted_for_each_identity():
    found = quotas(call_count=2)
    found.enter("alice")
    found.enter("alice")
    with pytest.raises(OverloadedError) as refused:
        found.enter("alice")
    assert refused.value.metadata == {"limit": "identity_call_count", "allowed": "2", "given": "3"}
    found.enter("bob")
    found.leave("alice")
    found.enter("alice")


def test_a_call_that_fails_is_given_back():
    found = quotas(call_count=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), found.using("alice"):
            raise ZeroDivisionError
    with found.using("alice"), pytest.raises(OverloadedError), found.using("alice"):
        raise AssertionError
    with found.using("alice"):
        pass


def test_calls_a_second_come_back_with_time_and_do_not_pile_up():
    now_s = 0.0
    found = quotas(lambda: now_s, calls_per_s=4)

    def begun():
        for count in range(100):
            try:
                found.enter("alice")
            except QuotaError as error:
                refused.append(error.metadata)
                return count
            found.leave("alice")
        raise AssertionError

    refused = []
    counts = [begun()]
    for passed_s in (0.0, 0.25, 0.5, 100.0):
        now_s += passed_s
        counts.append(begun())
    assert counts == [4, 0, 1, 2, 4]
    assert {item["limit"] for item in refused} == {"identity_calls_per_s"}
    assert all(0 < float(item["retry_after_s"]) <= 0.25 for item in refused)
    with found.using("bob"):
        pass


def test_nothing_is_counted_where_nothing_is_limited():
    found = quotas()
    for _ in range(10_000):
        found.using("alice").__enter__()


def test_capabilities_tell_the_quotas_that_are_set():
    set_ = describe_capabilities(ServerConfig(max_identity_call_count=7, max_identity_calls_per_s=9)).limits
    assert (set_["identity_call_count"], set_["identity_calls_per_s"]) == (7, 9)
    assert not [name for name in describe_capabilities(ServerConfig()).limits if name.startswith("identity")]
