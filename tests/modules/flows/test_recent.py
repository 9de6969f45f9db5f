"""What is kept of what was used last."""

from hypothesis import given
from hypothesis import strategies as st

from app.modules.flows.service.recent import Recent

LIMIT, LIMIT_BYTES = 4, 100


class TestRecent:
    def test_forgets_what_was_not_asked_for_the_longest(self):
        recent: Recent[str, int] = Recent(2, LIMIT_BYTES)
        recent.put("a", 1, 1)
        recent.put("b", 2, 1)
        recent.get("a")

        recent.put("c", 3, 1)

        assert [recent.get(key) for key in "abc"] == [1, None, 3]

    def test_makes_room_for_what_is_large(self):
        recent: Recent[str, int] = Recent(LIMIT, LIMIT_BYTES)
        recent.put("a", 1, 60)
        recent.put("b", 2, 30)

        recent.put("c", 3, 50)

        assert [recent.get(key) for key in "abc"] == [None, 2, 3]

    def test_takes_another_value_for_a_key(self):
        recent: Recent[str, int] = Recent(LIMIT, LIMIT_BYTES)
        recent.put("a", 1, 90)

        recent.put("a", 2, 90)

        assert recent.get("a") == 2

    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 120))))
    def test_keeps_no_more_than_it_may_and_always_the_last(self, puts):
        recent: Recent[int, int] = Recent(LIMIT, LIMIT_BYTES)
        sizes = {}

        for key, size_bytes in puts:
            recent.put(key, size_bytes, size_bytes)
            sizes[key] = size_bytes

            kept = [one for one in sizes if recent.get(one) is not None]
            assert recent.get(key) == size_bytes
            assert len(kept) <= LIMIT
            assert sum(sizes[one] for one in kept) <= max(LIMIT_BYTES, size_bytes)
