"""Lists that come page by page."""

import pytest

from ai_spine import ValidationError
from ai_spine import _endpoints as endpoints
from ai_spine._pages import Pages


def walk(everything: list[dict], size: int, *, is_paged: bool = True) -> tuple[list, list]:
    """All items and the requests that it took."""
    pages = Pages(endpoints.list_flows, "flow_id", size)
    items, requests = [], []
    while not pages.is_over:
        requests.append(dict(pages.call.params))
        offset = int(pages.call.params.get("offset", 0)) if is_paged else 0
        items += pages.take(everything[offset : offset + size] if is_paged else everything)
    return items, requests


def flows(count: int) -> list[dict]:
    return [{"flow_id": f"f{number}"} for number in range(count)]


class TestPages:
    @pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
    def test_give_everything_once(self, count):
        items, _ = walk(flows(count), 2)

        assert items == flows(count)

    def test_ask_behind_what_they_have(self):
        _, requests = walk(flows(5), 2)

        assert requests == [
            {"limit": "2"},
            {"limit": "2", "offset": "2"},
            {"limit": "2", "offset": "4"},
        ]

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_read_a_server_once_that_knows_no_pages(self, count):
        items, requests = walk(flows(count), 2, is_paged=False)

        assert items == flows(count)
        assert len(requests) <= 2

    def test_give_once_what_moved_to_the_next_page(self):
        pages = Pages(endpoints.list_flows, "flow_id", 2)
        first = pages.take(flows(2))

        second = pages.take([{"flow_id": "f1"}, {"flow_id": "f2"}])

        assert [*first, *second] == flows(3)

    @pytest.mark.parametrize("size", [0, 101, -1, 1.5, "2"])
    def test_have_a_size(self, size):
        with pytest.raises(ValidationError, match="limit"):
            Pages(endpoints.list_flows, "flow_id", size)
