"""The sliding minute: never more than the limit in any of them."""

from hypothesis import given
from hypothesis import strategies as st

from app.modules.billing.domain.windows import SLOTS, Window

LIMIT = 5


def admit(window: Window, slot: int, limit: int = LIMIT) -> bool:
    window.slide(slot)
    if window.requests >= limit:
        return False
    window.add(slot, 1)
    return True


class TestSlide:
    def test_a_slot_counts_while_any_of_it_may_be_in_the_window(self):
        window = Window()
        window.add(100, 7)

        window.slide(100 + SLOTS)

        assert (window.requests, window.tokens) == (1, 7)

    def test_a_slot_that_has_left_counts_no_more(self):
        window = Window()
        window.add(100, 7)

        window.slide(101 + SLOTS)

        assert (window.requests, window.tokens, window.newest) == (0, 0, None)

    @given(st.lists(st.integers(0, 30), max_size=300))
    def test_any_window_has_no_more_than_the_limit(self, pauses):
        window, slot, admitted = Window(), 0, []

        for pause in pauses:
            slot += pause
            if admit(window, slot):
                admitted.append(slot)

        # Two requests are within one window at most when their slots are no more than 60 apart.
        for first, later in zip(admitted, admitted[LIMIT:], strict=False):
            assert later - first > SLOTS


class TestAdd:
    def test_a_clock_that_went_back_counts_for_the_newest_slot(self):
        window = Window()
        window.add(100, 1)

        slot = window.add(99, 1)

        assert slot == [100, 2, 2]


class TestCorrect:
    def test_changes_the_tokens_of_the_slot_they_were_counted_in(self):
        window = Window()
        slot = window.add(100, 50)
        window.add(101, 5)

        window.correct(slot, -30)
        window.slide(101 + SLOTS)

        assert window.tokens == 5

    def test_does_nothing_when_the_slot_has_left(self):
        window = Window()
        slot = window.add(100, 50)
        window.slide(200)
        window.add(200, 5)

        window.correct(slot, -30)

        assert window.tokens == 5

    def test_does_nothing_when_every_slot_has_left(self):
        window = Window()
        slot = window.add(100, 50)
        window.slide(200)

        window.correct(slot, -30)

        assert window.tokens == 0


class TestUntil:
    @given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.integers(1, 9))
    def test_a_request_fits_at_the_slot_that_is_told_and_not_before(self, pauses, limit):
        window, slot = Window(), 0
        for pause in pauses:
            slot += pause
            admit(window, slot, limit)
        if window.requests < limit:
            return

        wait = window.slots_until_requests_fit(slot, limit)

        window.slide(slot + wait - 1)
        assert window.requests == limit
        window.slide(slot + wait)
        assert window.requests < limit

    def test_tokens_fit_when_enough_have_left(self):
        window = Window()
        window.add(100, 30)
        window.add(110, 60)

        assert window.slots_until_tokens_fit(110, 30, 100) == 51
        assert window.slots_until_tokens_fit(110, 80, 100) == 61

    def test_a_limit_of_nothing_never_fits(self):
        assert Window().slots_until_requests_fit(100, 0) == SLOTS + 1
