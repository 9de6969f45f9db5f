"""What a search has found, in bytes: what is read, and what is refused."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula_vault import IntegrityError
from insula_vault.encoding import pack
from insula_vault.found import FOUND, read_found
from insula_vault.wire import Answer

LIMIT = 3
HEAD = b'{"items":[]}'
items = st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=40)), max_size=LIMIT)


def answer(content: bytes, kind: str = FOUND) -> Answer:
    return Answer(200, httpx.Headers({"content-type": kind}), content)


def framed(*found: tuple[str, bytes]) -> bytes:
    return pack(HEAD, *[part for one in found for part in one])


class TestReadFound:
    @given(items)
    def test_reads_ids_and_items_in_their_order(self, found):
        assert read_found(answer(framed(*found)), LIMIT) == found

    def test_reads_it_whatever_is_said_behind_its_kind(self):
        content = framed(("a", b"one"))

        assert read_found(answer(content, f"{FOUND}; v=1"), LIMIT) == [("a", b"one")]

    def test_believes_nothing_of_the_head(self):
        assert read_found(answer(pack(b"no json", "a", b"one")), LIMIT) == [("a", b"one")]

    def test_refuses_an_answer_that_is_cut_off_within_a_field(self):
        content = framed(("a", b"one"))

        whole = {0, 4 + len(HEAD), 4 + len(HEAD) + 5, len(content)}
        for size in set(range(len(content))) - whole:
            with pytest.raises(IntegrityError, match="cut off"):
                read_found(answer(content[:size]), LIMIT)

    @pytest.mark.parametrize("content", [b"", pack(HEAD, "a"), pack(HEAD, "a", b"one", "b")])
    def test_refuses_an_answer_without_a_head_or_an_item(self, content):
        with pytest.raises(IntegrityError, match="no head, or an id without an item"):
            read_found(answer(content), LIMIT)

    def test_refuses_a_length_beyond_the_end(self):
        with pytest.raises(IntegrityError, match="cut off"):
            read_found(answer(pack(HEAD) + b"\xff\xff\xff\xff" + b"rest"), LIMIT)

    @pytest.mark.parametrize("more", [1, 1000])
    def test_refuses_more_items_than_were_asked_for(self, more):
        content = framed(*[("a", b"")] * (LIMIT + more))

        with pytest.raises(IntegrityError, match="more than 7 fields"):
            read_found(answer(content), LIMIT)

    def test_refuses_an_id_that_is_no_text(self):
        with pytest.raises(IntegrityError, match="no text"):
            read_found(answer(pack(HEAD, b"\xff", b"one")), LIMIT)

    @given(st.binary(max_size=60))
    def test_reads_or_refuses_anything(self, noise):
        try:
            found = read_found(answer(noise), LIMIT)
        except IntegrityError:
            return

        assert len(found) <= LIMIT
        assert sum(len(one.encode()) + len(sealed) for one, sealed in found) < len(noise)
