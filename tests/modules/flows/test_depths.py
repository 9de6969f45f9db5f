"""How deep a JSON value may be nested."""

import pytest

from app.modules.flows.domain.depths import is_too_deep


def nested(levels: int, kind: str) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value] if kind == "list" else {"a": value}
    return value


class TestIsTooDeep:
    @pytest.mark.parametrize("kind", ["list", "object"])
    def test_lets_as_many_levels_pass_as_there_may_be(self, kind):
        assert not is_too_deep(nested(3, kind), 3)

    @pytest.mark.parametrize("kind", ["list", "object"])
    def test_refuses_one_more(self, kind):
        assert is_too_deep(nested(4, kind), 3)

    @pytest.mark.parametrize("value", [1, "[[[[", None])
    def test_counts_nothing_where_nothing_is_nested(self, value):
        assert not is_too_deep(value, 0)

    def test_counts_what_is_empty(self):
        assert is_too_deep([{}], 1)

    def test_finds_the_deepest_of_many(self):
        assert is_too_deep({"a": 1, "b": [[], [1], nested(100, "list")]})

    def test_is_not_itself_ended_by_the_depth(self):
        assert is_too_deep(nested(100_000, "object"))
