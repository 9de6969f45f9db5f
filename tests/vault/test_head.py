"""Heads: chained, and descended from what was seen, or refused."""

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insula_vault import Head, IntegrityError
from insula_vault.head import (
    DEVICES_MAX,
    authenticated,
    check_descends,
    decode_head,
    first_or_next,
)

KEY = bytes(range(32))


def following(before: Head | None, device: str) -> Head:
    """A head on ``before``, unlike any other."""
    return authenticated(first_or_next(before, device, os.urandom(32).hex(), 1), KEY)


def descends(known: Head, shown: Head) -> bool:
    try:
        check_descends(known, shown)
    except IntegrityError:
        return False
    return True


class TestDecodeHead:
    def test_gives_what_was_encoded(self):
        head = following(following(None, "a"), "b")

        assert decode_head(head.encode(), KEY) == head

    @given(st.data())
    def test_refuses_any_bit_changed(self, data):
        encoded = bytearray(following(None, "a").encode())
        bit = data.draw(st.integers(0, len(encoded) * 8 - 1))

        encoded[bit // 8] ^= 1 << bit % 8

        with pytest.raises(IntegrityError):
            decode_head(bytes(encoded), KEY)

    def test_refuses_one_of_another_account(self):
        with pytest.raises(IntegrityError):
            decode_head(following(None, "a").encode(), bytes(32))


class TestCheckDescends:
    def test_takes_any_first_one(self):
        check_descends(None, following(None, "a"))

    def test_takes_the_same_one_again(self):
        head = following(None, "a")

        check_descends(head, head)

    def test_refuses_an_older_one(self):
        first = following(None, "a")
        second = following(first, "a")

        with pytest.raises(IntegrityError, match="went back"):
            check_descends(second, first)

    def test_refuses_another_one_of_the_same_number(self):
        first = following(None, "a")

        with pytest.raises(IntegrityError, match="forked"):
            check_descends(following(first, "a"), following(first, "b"))

    def test_refuses_a_longer_history_that_left_one_out(self):
        first = following(None, "a")
        ours = following(first, "a")
        theirs = following(following(following(first, "b"), "b"), "c")

        with pytest.raises(IntegrityError, match="does not know head 2"):
            check_descends(ours, theirs)

    def test_refuses_a_next_one_on_another_one(self):
        first = following(None, "a")
        ours, theirs = following(first, "a"), following(first, "b")
        next_on_theirs = replace(following(theirs, "a"), marks=ours.seen())

        with pytest.raises(IntegrityError, match="forked"):
            check_descends(ours, next_on_theirs)

    def test_takes_one_that_dropped_an_old_device(self):
        known = head = following(following(None, "old"), "other")
        for number in range(DEVICES_MAX + 5):
            head = following(head, f"new-{number}")

        assert "old" not in head.seen()
        check_descends(known, head)

    def test_keeps_a_head_small(self):
        head = following(None, "first")
        for number in range(DEVICES_MAX + 9):
            head = following(head, f"device-{number}")

        assert len(head.marks) == DEVICES_MAX
        assert len(head.encode()) < 8 * 1024

    @settings(max_examples=80)
    @given(
        st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 11)), min_size=2, max_size=14)
    )
    def test_is_right_about_every_pair_that_honest_devices_can_meet(self, steps):
        """A server that forks as it likes; devices that build only on what they have checked."""
        heads = [following(None, "a")]
        parents: dict[str, str] = {heads[0].mac: ""}
        known: dict[str, Head] = {}
        for device, place in steps:
            shown = heads[place % len(heads)]
            if device in known and not descends(known[device], shown):
                continue
            made = following(shown, device)
            parents[made.mac] = shown.mac
            known[device] = made
            heads.append(made)

        for older in heads:
            for newer in heads:
                line, at = set(), newer.mac
                while at:
                    line.add(at)
                    at = parents[at]
                assert descends(older, newer) == (older.mac in line)
