"""Secrets in what a script says."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.sandbox.domain.redaction import (
    CONTEXT_CHARS,
    PASSWORD_LIMIT_CHARS,
    TOKEN_LEAST_CHARS,
    Redactor,
)

SECRET = "hunter2-and-more"
MARKED = "[REDACTED...more]"
TOKEN = "abcdEFGH0123_-xyz"[:TOKEN_LEAST_CHARS]
HOSTILE_CHARS = 1_000_000

# Few characters, so that values overlap, repeat and begin one another.
narrow = st.text("ab:", max_size=30)
several = st.lists(st.text("ab:", min_size=1, max_size=6), max_size=4)
beginnings = st.sampled_from(["sk-", "isk_", "AKIA", "ghp_", "xoxb-", "Bearer ", "://", "u:"])
ends = st.sampled_from(
    [TOKEN, TOKEN[:-1], SECRET, SECRET[:5], "x" * CONTEXT_CHARS, *"@/ -.a\u00e9"]
)
credentials = st.lists(beginnings | ends, max_size=12).map("".join)


def redactor(*values):
    return Redactor({f"SECRET_{at}": value for at, value in enumerate(values)})


def streamed(redactor, pieces):
    stream = redactor.stream()
    return "".join([stream.push(piece) for piece in pieces] + [stream.finish()])


def pieces_of(text, cuts):
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


class TestText:
    def test_shows_the_end_of_a_secret(self):
        assert redactor(SECRET).text(f"<{SECRET}>") == f"<{MARKED}>"

    @pytest.mark.parametrize("value", ["a", "1234"])
    def test_shows_nothing_of_a_short_one(self, value):
        assert redactor(value).text(f"<{value}>") == "<[REDACTED]>"

    def test_passes_over_empty_values(self):
        assert redactor("", "").text("as it was") == "as it was"

    def test_prefers_the_longest_value(self):
        assert redactor("hunter2", SECRET).text(SECRET) == MARKED

    def test_finds_every_place(self):
        assert redactor(SECRET).text(f"{SECRET}{SECRET} {SECRET}") == f"{MARKED}{MARKED} {MARKED}"

    def test_leaves_no_rest_of_values_that_overlap(self):
        assert redactor("abcdef", "defghij").text("-abcdefghij-") == "-[REDACTED...cdef]-"

    def test_leaves_no_rest_of_a_value_that_overlaps_itself(self):
        assert redactor("abab").text("-ababab-") == "-[REDACTED]-"

    def test_does_not_read_its_own_marks(self):
        assert redactor("REDACTED", SECRET).text(SECRET) == MARKED

    def test_finds_a_value_in_which_nul_was_replaced(self):
        assert redactor("a\0bcdef").text("<a\ufffdbcdef>") == "<[REDACTED...cdef]>"

    def test_counts_its_marks_by_name(self):
        redactor = Redactor({"KEY": SECRET, "PIN": "1234", "UNUSED": "zzz"})

        redactor.text(f"{SECRET} 1234 {SECRET} sk-{TOKEN}")

        assert redactor.found == {"KEY": 2, "PIN": 1, "API key": 1}

    @given(several, narrow)
    def test_lets_no_value_through(self, values, text):
        covered = set()
        for value in values:
            for at in range(len(text)):
                if text.startswith(value, at):
                    covered |= set(range(at, at + len(value)))

        found = redactor(*values).text(text)

        marks = {f"[REDACTED...{value[-4:]}]" for value in values if len(value) > 4}
        for mark in {*marks, "[REDACTED]"}:
            found = found.replace(mark, "")
        assert found == "".join(c for at, c in enumerate(text) if at not in covered)


class TestPatterns:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            (f"sk-{TOKEN}", "sk-[REDACTED]"),
            (f"sk-proj-{TOKEN * 9}.", "sk-[REDACTED]."),
            (f"key=isk_{TOKEN};", "key=isk_[REDACTED];"),
            ("AKIAIOSFODNN7EXAMPLE", "AKIA[REDACTED]"),
            (f"ghp_{TOKEN}", "ghp_[REDACTED]"),
            (f"ghs_{TOKEN}", "ghs_[REDACTED]"),
            (f"xoxb-{TOKEN}", "xoxb-[REDACTED]"),
            (f"Authorization: Bearer {TOKEN}.x/y+z==", "Authorization: Bearer [REDACTED]"),
            (f"BEARER {TOKEN}\n", "BEARER [REDACTED]\n"),
            ("postgresql://me:pass@db/x", "postgresql://me:[REDACTED]@db/x"),
            ("redis://:p@ss:word@cache:6379", "redis://:[REDACTED]@cache:6379"),
            (f"bearer bearer {TOKEN}", "bearer bearer [REDACTED]"),
            (f"Bearer {TOKEN}/bearer {TOKEN}", "Bearer [REDACTED] [REDACTED]"),
        ],
    )
    def test_of_credentials_are_hidden(self, text, shown):
        assert redactor().text(text) == shown

    @pytest.mark.parametrize(
        "text",
        [
            f"sk-{TOKEN[1:]}",
            "task-force-of-the-whole-town",
            "risk_assessment and isk_ alone",
            "bearer of bad news",
            f"Bearer\n{TOKEN}",
            "http://localhost:8080/users/@me",
            "https://example.com/a:b@c",
            "time 12:30, mail me@example.com",
            f"http://u:{'p' * (PASSWORD_LIMIT_CHARS + 1)}@host",
        ],
    )
    def test_leave_other_texts_alone(self, text):
        assert redactor().text(text) == text

    def test_leave_a_secret_its_own_mark(self):
        assert redactor(SECRET).text(f"x://u:{SECRET}@h") == f"x://u:{MARKED}@h"

    def test_cover_a_secret_within_and_its_end(self):
        found = redactor(f"{TOKEN}.tail").text(f"sk-x{TOKEN}.tail.")

        assert found == "sk-[REDACTED]."


class TestHostile:
    @pytest.mark.parametrize(
        "unit",
        [
            *(
                "sk-",
                "sk-a ",
                "isk_",
                "AKIA",
                "ghp_",
                "xoxb-",
                "s",
                "://",
                "://:",
                "://a:",
                "a",
                ":",
            ),
            *("bearer ", "bearer a", f"bearer {TOKEN[1:]} ", "Bearer a/", f"sk-{TOKEN[1:]} "),
            *(f"://u:{'@' * 255} ", f"://{'u' * 64}:{'p' * 256}/", SECRET, SECRET[:-1], "hhunter2"),
        ],
    )
    def test_hostile_text_comes_to_an_end_and_is_the_same_in_pieces(self, unit):
        """One that backtracks would not end within the time of a test."""
        text = (unit * (HOSTILE_CHARS // len(unit) + 1))[:HOSTILE_CHARS]

        whole = redactor(SECRET).text(text)

        assert streamed(redactor(SECRET), pieces_of(text, [])) == whole

    def test_a_secret_that_repeats_itself_is_found(self):
        text = "x" * HOSTILE_CHARS

        assert redactor("x" * 40).text(text) == "[REDACTED...xxxx]"
