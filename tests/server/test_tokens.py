"""The file of tokens: its form, its changes, and that no error or log line shows what is in it."""

from __future__ import annotations

import hashlib
import logging

import pytest

from gradwire_core.errors import UnauthenticatedError
from gradwire_server.config import ConfigError
from gradwire_server.tokens import LOOK_INTERVAL_S, TokenFile

ALICE, BOB, NEW = (name * 8 for name in ("alice", "bobby", "newer"))


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tokens(tmp_path, clock):
    def make(text):
        path = tmp_path / "tokens"
        path.write_text(text)
        return TokenFile(str(path), clock), path

    return make


def hashed(token):
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


def test_tokens_are_found_plain_and_hashed(tokens):
    found, _ = tokens(f"# who may call\n\nalice:{ALICE}\n  bob@team:{hashed(BOB)}  \nalice:{NEW}\n")
    assert found.identify(f"Bearer {ALICE}") == "alice"
    assert found.identify(f"bearer {NEW}") == "alice"
    assert found.identify(f"Bearer {BOB}") == "bob@team"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        ALICE,
        f"Basic {ALICE}",
        f"Bearer {ALICE}x",
        f"Bearer {ALICE[:-1]}",
        f"Bearer  {ALICE}",
        f"Bearer {hashed(BOB)}",
    ],
)
def test_anything_else_is_nobody_and_is_not_repeated(given, tokens):
    found, _ = tokens(f"alice:{ALICE}\nbob:{hashed(BOB)}\n")
    with pytest.raises(UnauthenticatedError) as refused:
        found.identify(given)
    assert ALICE[:8] not in repr(refused.value)
    assert "bob" not in repr(refused.value)
    assert refused.value.metadata == {}


def test_a_changed_file_holds_after_a_moment_and_what_it_lost_does_not(tokens, clock):
    found, path = tokens(f"alice:{ALICE}\n")
    path.write_text(f"alice:{NEW}\n\n")
    assert found.identify(f"Bearer {ALICE}") == "alice"
    clock.now_s += LOOK_INTERVAL_S
    assert found.identify(f"Bearer {NEW}") == "alice"
    with pytest.raises(UnauthenticatedError):
        found.identify(f"Bearer {ALICE}")


@pytest.mark.parametrize("change", ["", "alice\n", "alice:short\n", None], ids=["empty", "no colon", "short", "gone"])
def test_a_file_that_turns_bad_changes_nothing(change, tokens, clock, caplog):
    logging.getLogger("gradwire_server").propagate = True
    found, path = tokens(f"alice:{ALICE}\n")
    if change is None:
        path.unlink()
    else:
        path.write_text(change)
    clock.now_s += LOOK_INTERVAL_S
    assert found.identify(f"Bearer {ALICE}") == "alice"
    assert "tokens kept as they were" in caplog.text
    path.write_text(f"alice:{NEW}\n# and right again\n")
    clock.now_s += LOOK_INTERVAL_S
    assert found.identify(f"Bearer {NEW}") == "alice"
    assert NEW not in caplog.text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "needed at least one line"),
        (f"x\n{ALICE}\n", "line 1: needed IDENTITY:TOKEN"),
        (f"a b:{ALICE}\n", "line 1: needed IDENTITY:TOKEN"),
        ("alice:secret\n", "line 1: needed a token of 16 characters or more"),
        (f"alice:{ALICE} {BOB}\n", "line 1: needed a token of 16 characters or more"),
        (f"# one\nalice:sha256:{ALICE}\n", "line 2: needed 64 hexadecimal digits after sha256:"),
        (f"alice:{ALICE}\nbob:{hashed(ALICE)}\n", "line 2: needed a token of its own, got that of alice"),
        ("alice:\u00e9" + ALICE, "needed ASCII text"),
    ],
)
def test_a_bad_file_is_refused_without_showing_it(text, wanted, tokens):
    with pytest.raises(ConfigError) as refused:
        tokens(text)
    assert wanted in str(refused.value)
    assert not any(secret in str(refused.value) for secret in (ALICE, BOB, "secret"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"token_file: needed a file that can be read, got .*absent: No such file"):
        TokenFile(str(tmp_path / "absent"))
