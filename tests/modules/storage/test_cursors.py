"""Cursors: nobody can make one, change one or use somebody else's."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.storage.domain.cursors import (
    Cursor,
    CursorExpired,
    CursorInvalid,
    Feed,
    resume,
    seal,
    unseal,
)

ANNA, BERT = UUID(int=1), UUID(int=2)
KEY, NEWER = b"k" * 32, b"n" * 32
CURSOR = Cursor("e1", 12, 3, "record")
SEALED = seal(CURSOR, ANNA, KEY)
FEED = Feed("e1", 20, 5)


def at(seq: int, floor_seq: int = 0, epoch: str = "e1", kinds: str = "record") -> Cursor:
    return Cursor(epoch, seq, floor_seq, kinds)


class TestUnseal:
    def test_gives_back_what_was_sealed(self):
        assert unseal(SEALED, ANNA, [KEY]) == CURSOR

    def test_takes_what_an_older_key_has_signed(self):
        assert unseal(SEALED, ANNA, [NEWER, KEY]) == CURSOR

    def test_refuses_what_no_key_has_signed(self):
        with pytest.raises(CursorInvalid):
            unseal(SEALED, ANNA, [NEWER])

    def test_refuses_somebody_elses(self):
        with pytest.raises(CursorInvalid):
            unseal(SEALED, BERT, [KEY])

    @pytest.mark.parametrize("place", range(len(SEALED)))
    def test_refuses_one_with_another_character(self, place):
        other = "A" if SEALED[place] != "A" else "B"

        with pytest.raises(CursorInvalid):
            unseal(SEALED[:place] + other + SEALED[place + 1 :], ANNA, [KEY])

    @pytest.mark.parametrize(
        "text",
        ["", "A", SEALED[:-1], SEALED + "A", SEALED + "=", SEALED + "\n", "\u00e9", "A" * 9999],
    )
    def test_refuses_one_of_another_length(self, text):
        with pytest.raises(CursorInvalid):
            unseal(text, ANNA, [KEY])

    @given(st.text(max_size=300))
    def test_refuses_anything(self, text):
        with pytest.raises(CursorInvalid):
            unseal(text, ANNA, [KEY])


class TestResume:
    def test_begins_at_the_beginning(self):
        assert resume(None, "record", FEED) == 0

    def test_begins_where_there_was_nothing_yet(self):
        assert resume(at(0, epoch=""), "record", FEED) == 0

    def test_goes_on_behind_what_is_known(self):
        assert resume(at(12), "record", FEED) == 12

    def test_goes_on_for_who_knows_all_deletions_that_are_forgotten(self):
        assert resume(at(5, 0), "record", FEED) == 5

    def test_goes_on_for_who_began_after_they_were_forgotten(self):
        assert resume(at(2, 5), "record", FEED) == 2

    def test_refuses_who_has_missed_a_deletion(self):
        with pytest.raises(CursorExpired):
            resume(at(4, 4), "record", FEED)

    def test_refuses_a_cursor_of_another_numbering(self):
        with pytest.raises(CursorExpired):
            resume(at(12, epoch="e0"), "record", FEED)

    def test_refuses_a_cursor_of_a_future_that_was_lost(self):
        with pytest.raises(CursorExpired):
            resume(at(21), "record", FEED)

    def test_refuses_a_cursor_of_other_kinds(self):
        with pytest.raises(CursorInvalid):
            resume(at(12, kinds="record,vector"), "record", FEED)
