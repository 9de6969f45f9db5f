"""Versions: their numbers and the ids of what they say."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.flows.domain.checks import parse_flow
from app.modules.flows.domain.versions import (
    VERSION,
    VersionsSpent,
    decode,
    definition_id,
    encode,
    next_version,
    rank,
)

ANNA, BERT = UUID(int=1), UUID(int=2)
VERSIONS = st.lists(st.integers(0, 10**9 - 2), min_size=1, max_size=3).map(
    lambda parts: ".".join(map(str, parts))
)


class TestNextVersion:
    @pytest.mark.parametrize(
        ("wanted", "highest", "following"),
        [
            ("1.0.0", "1.0.0", "1.0.1"),
            ("0.9.0", "1.0.9", "1.0.10"),
            ("2.0.0", "1.0.9", "2.0.0"),
            ("1.1", "1.0.9", "1.1"),
            ("1.0", "1.0.0", "1.0.1"),
            ("3", "3", "4"),
            ("01.02", "1.2", "1.3"),
        ],
    )
    def test_is_what_is_wanted_if_that_is_higher_else_one_more(self, wanted, highest, following):
        assert next_version(wanted, highest) == following

    @given(VERSIONS, VERSIONS)
    def test_is_always_a_version_above_the_highest(self, wanted, highest):
        following = next_version(wanted, highest)

        assert rank(following) > rank(highest)
        assert VERSION.fullmatch(following)

    def test_ends_where_numbers_do(self):
        with pytest.raises(VersionsSpent):
            next_version("1.0.0", "1.0.999999999")


class TestDefinitionId:
    def test_is_the_same_in_whatever_order_it_was_said(self):
        flow = {"flow_id": "a", "name": "A", "nodes": [{"id": "n"}], "metadata": {"x": 1, "y": 2}}
        other = {**flow, "metadata": {"y": 2, "x": 1}}

        bodies = [encode(parse_flow(flow)), encode(parse_flow(other))]

        assert definition_id(ANNA, bodies[0]) == definition_id(ANNA, bodies[1])

    def test_is_each_owners_own(self):
        assert len({definition_id(owner, b"body") for owner in (None, ANNA, BERT)}) == 3

    def test_does_not_run_owner_and_body_together(self):
        assert definition_id(None, ANNA.bytes + b"body") != definition_id(ANNA, b"body")

    def test_is_a_uuid_of_its_own_making(self):
        made = definition_id(ANNA, b"body")

        assert (made.version, made.variant) == (8, "specified in RFC 4122")


class TestDecode:
    def test_gives_back_what_was_encoded(self):
        node = {"id": "n", "kind": "llm", "config": {"prompt": "x"}}
        flow = parse_flow({"flow_id": "a", "name": "A", "nodes": [node]})

        assert decode(encode(flow)) == flow
