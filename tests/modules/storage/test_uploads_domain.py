"""How a large body is cut, and when its session takes no more."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app.modules.storage.domain.bodies import Part
from app.modules.storage.domain.uploads import (
    NAMED_LIMIT,
    PARTS_LIMIT,
    Layout,
    PartMalformed,
    PartsMissing,
    PartsTooMany,
    UploadCommitted,
    UploadGone,
    arrivable,
    layout_of,
    require_open,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)


class TestLayout:
    @pytest.mark.parametrize(
        ("size", "sizes"), [(1, [1]), (10, [10]), (11, [10, 1]), (20, [10, 10]), (25, [10, 10, 5])]
    )
    def test_all_parts_have_one_size_and_the_last_has_the_rest(self, size, sizes):
        layout = Layout(size, 10)

        found = [layout.size_of(number) for number in range(1, layout.part_count + 1)]

        assert found == sizes

    @pytest.mark.parametrize("number", [-1, 0, 4])
    def test_there_are_no_other_parts(self, number):
        with pytest.raises(PartMalformed, match="1 to 3"):
            Layout(25, 10).size_of(number)

    def test_a_part_of_another_size_is_refused(self):
        with pytest.raises(PartMalformed, match="Part 3 has 5 bytes, not 10"):
            Layout(25, 10).require_size(3, 10)

    def test_missing_parts_are_named(self):
        with pytest.raises(PartsMissing) as raised:
            Layout(45, 10).require_all([2, 5])

        assert raised.value.extra == {"missing": [1, 3, 4]}

    def test_of_many_missing_parts_the_first_ones_are_named(self):
        with pytest.raises(PartsMissing) as raised:
            Layout(PARTS_LIMIT, 1).require_all([])

        assert raised.value.extra["missing"] == list(range(1, NAMED_LIMIT + 1))


class TestLayoutOf:
    def test_is_the_usual_one_where_nobody_asks(self):
        assert layout_of(100, None, 10) == Layout(100, 10)

    def test_has_larger_parts_where_there_would_be_too_many(self):
        layout = layout_of(PARTS_LIMIT * 10 + 1, None, 10)

        assert layout.part_bytes == 11
        assert layout.part_count <= PARTS_LIMIT

    def test_is_as_it_is_asked_for(self):
        assert layout_of(100, 30, 10) == Layout(100, 30)

    def test_refuses_too_many_parts(self):
        with pytest.raises(PartsTooMany):
            layout_of(PARTS_LIMIT * 10 + 1, 10, 10)


class TestRequireOpen:
    def test_takes_what_is_open(self):
        require_open("open", LATER, NOW)

    @pytest.mark.parametrize("state", ["aborted", "expired"])
    def test_refuses_what_has_ended(self, state):
        with pytest.raises(UploadGone):
            require_open(state, LATER, NOW)

    def test_refuses_what_nobody_has_ended_yet(self):
        with pytest.raises(UploadGone):
            require_open("open", NOW, NOW)

    def test_refuses_what_is_committed(self):
        with pytest.raises(UploadCommitted):
            require_open("committed", LATER, NOW)


class TestArrivable:
    def test_are_links_to_parts_that_are_not_there(self):
        assert arrivable([_part(1, 1)], [_part(2, 2)]) == [_part(1, 1)]

    def test_are_links_that_are_newer_than_what_is_there(self):
        older, kept, newer = _part(1, 7), _part(2, 7), _part(3, 7)

        assert arrivable([older, newer], [kept]) == [newer]


def _part(name: int, number: int) -> Part:
    return Part(UUID(int=name), number, 10, "")
