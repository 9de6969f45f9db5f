"""Preconditions: how they are read, and what they let through."""

import pytest

from app.modules.storage.domain.conditions import (
    Condition,
    ConditionMalformed,
    NoSuchRecord,
    PreconditionFailed,
    PreconditionRequired,
    State,
    check,
    condition,
    decide,
    etag_of,
)

CONTENT = ("ab" * 32, "notes", "k1")
OTHER = ("cd" * 32, "notes", "k1")
LIVE = State("2-abababab", "1-00000000", is_deleted=False, content=CONTENT)
BURIED = State("3-00000000", "2-abababab", is_deleted=True)
NEW = Condition(is_new=True)
ANYTHING = Condition(etag="*")


def replacing(etag: str) -> Condition:
    return Condition(etag=etag)


class TestCondition:
    def test_creates_with_a_star_for_none_match(self):
        assert condition(None, " * ") == NEW

    def test_replaces_with_an_etag(self):
        assert condition(' "12-0123abcd" ', None) == replacing("12-0123abcd")

    def test_replaces_anything_with_a_star(self):
        assert condition("*", None) == ANYTHING

    def test_must_be_there(self):
        with pytest.raises(PreconditionRequired):
            condition(None, None)

    @pytest.mark.parametrize(
        "etag",
        [
            "",
            "1-0123abcd",
            'W/"1-0123abcd"',
            '"1-0123abcd", "2-0123abcd"',
            '"1-0123ABCD"',
            '"-0123abcd"',
            '"1-0123abc"',
            f'"{"1" * 19}-0123abcd"',
            '"1-0123abcd"\n"',
        ],
    )
    def test_refuses_what_is_not_one_strong_etag_of_ours(self, etag):
        with pytest.raises(ConditionMalformed):
            condition(etag, None)

    def test_refuses_an_etag_for_none_match(self):
        with pytest.raises(ConditionMalformed):
            condition(None, '"1-0123abcd"')

    def test_refuses_both(self):
        with pytest.raises(ConditionMalformed):
            condition('"1-0123abcd"', "*")


class TestDecide:
    @pytest.mark.parametrize("state", [None, BURIED])
    def test_creates_what_is_not_there(self, state):
        assert decide(NEW, state, CONTENT) == "change"

    def test_does_not_create_over_something(self):
        with pytest.raises(PreconditionFailed) as failed:
            decide(NEW, LIVE, OTHER)

        assert failed.value.extra == {"etag": '"2-abababab"'}

    @pytest.mark.parametrize("wanted", [replacing(LIVE.etag), ANYTHING])
    def test_replaces_the_current_revision(self, wanted):
        assert decide(wanted, LIVE, OTHER) == "change"

    def test_does_not_replace_another_revision(self):
        with pytest.raises(PreconditionFailed) as failed:
            decide(replacing("1-00000000"), LIVE, OTHER)

        assert failed.value.extra == {"etag": '"2-abababab"'}

    @pytest.mark.parametrize("state", [None, BURIED])
    def test_anything_is_not_nothing(self, state):
        with pytest.raises(PreconditionFailed) as failed:
            decide(ANYTHING, state, CONTENT)

        assert failed.value.extra == {"etag": ""}

    def test_replaces_a_tombstone_that_is_named(self):
        assert decide(replacing(BURIED.etag), BURIED, CONTENT) == "change"

    def test_does_not_replace_what_was_deleted_since(self):
        with pytest.raises(PreconditionFailed):
            decide(replacing("2-abababab"), BURIED, CONTENT)

    def test_the_same_change_sent_again_was_made_already(self):
        assert decide(replacing("1-00000000"), LIVE, CONTENT) == "again"

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_a_change_of_other_content_is_another_one(self, place):
        content = tuple("else" if n == place else one for n, one in enumerate(CONTENT))

        with pytest.raises(PreconditionFailed):
            decide(replacing("1-00000000"), LIVE, content)

    def test_deletes_the_current_revision(self):
        assert decide(replacing(LIVE.etag), LIVE, None) == "change"

    def test_does_not_delete_another_revision(self):
        with pytest.raises(PreconditionFailed):
            decide(replacing("1-00000000"), LIVE, None)

    def test_the_same_deletion_sent_again_was_made_already(self):
        assert decide(replacing("2-abababab"), BURIED, None) == "again"

    @pytest.mark.parametrize("state", [None, BURIED])
    def test_does_not_delete_what_is_not_there(self, state):
        with pytest.raises(NoSuchRecord):
            decide(replacing("1-00000000"), state, None)


class TestCheck:
    @pytest.mark.parametrize(
        ("wanted", "state"),
        [(NEW, None), (NEW, BURIED), (ANYTHING, LIVE), (replacing(LIVE.etag), LIVE)],
    )
    def test_lets_what_holds_pass(self, wanted, state):
        check(wanted, state)

    @pytest.mark.parametrize(
        ("wanted", "state"),
        [
            (NEW, LIVE),
            (ANYTHING, None),
            (ANYTHING, BURIED),
            (replacing("1-00000000"), LIVE),
            (replacing(BURIED.etag), BURIED),
        ],
    )
    def test_refuses_what_does_not(self, wanted, state):
        with pytest.raises(PreconditionFailed):
            check(wanted, state)


def test_an_etag_has_the_revision_and_the_beginning_of_the_digest():
    assert etag_of(7, "0123456789abcdef") == "7-01234567"
