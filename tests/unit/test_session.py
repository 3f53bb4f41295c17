"""Sessions of the page: what opens one, how long it lasts, that nobody else can make one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syncer.web.revoked import RevokedSessions
from syncer.web.session import ATTEMPT_PERIOD, ATTEMPTS, LIFETIME, LoginThrottle, Sessions

TOKEN = "a-token-of-the-page"
SESSIONS = Sessions(TOKEN)
VALUE = SESSIONS.open()


def test_only_the_token_matches() -> None:
    assert SESSIONS.matches(TOKEN)
    for wrong in ("", TOKEN[:-1], TOKEN + " ", TOKEN.upper(), "ünïcödé"):
        assert not SESSIONS.matches(wrong)


def test_a_session_lasts_its_time_and_a_restart_and_says_nothing() -> None:
    now = 1_000_000.0
    sessions = Sessions(TOKEN, lambda: now)
    value = sessions.open()
    assert TOKEN not in value
    assert value != sessions.open()
    assert Sessions(TOKEN, lambda: now).holds(value)
    now += LIFETIME - 1
    assert sessions.holds(value)
    now += 1
    assert not sessions.holds(value)


def test_a_new_token_ends_all_sessions() -> None:
    assert not Sessions(TOKEN + "2").holds(VALUE)
    assert Sessions(TOKEN + "2").form_token(VALUE) != SESSIONS.form_token(VALUE)


def test_an_ended_session_is_over_and_forgotten_when_it_would_be() -> None:
    now = 1_000_000.0
    ended = RevokedSessions(lambda: now)
    sessions = Sessions(TOKEN, lambda: now, ended)
    first, other = sessions.open(), sessions.open()
    sessions.end(first)
    assert (sessions.holds(first), sessions.holds(other)) == (False, True)
    for wrong in ("", "1.a.b", f"{first}x"):
        sessions.end(wrong)
    assert len(ended._until) == 1
    assert first not in str(ended._until)
    now += LIFETIME
    sessions.end(other)
    new = sessions.open()
    sessions.end(new)
    assert not sessions.holds(new)
    assert len(ended._until) == 1


@given(st.integers(0, len(VALUE) - 1), st.characters(codec="utf-8"))
def test_a_changed_session_is_none(at: int, character: str) -> None:
    changed = VALUE[:at] + character + VALUE[at + 1 :]
    assert SESSIONS.holds(changed) == (changed == VALUE)


@given(st.text())
def test_no_text_is_a_session(text: str) -> None:
    assert not SESSIONS.holds(text)
    assert not SESSIONS.holds(f"{text}.{SESSIONS.form_token(text)}")


def test_too_many_wrong_tries_make_a_pause() -> None:
    now = 5.0
    throttle = LoginThrottle(lambda: now)
    for _ in range(ATTEMPTS):
        assert throttle.pause() == 0
        throttle.add_failure()
    assert throttle.pause() == ATTEMPT_PERIOD
    now += ATTEMPT_PERIOD - 1
    assert throttle.pause() == 1
    now += 1
    assert throttle.pause() == 0
