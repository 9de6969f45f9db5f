"""Which bytes a reader wants, and whether it has them already."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.storage.domain.ranges import NoSuchRange, Span, holds, is_known, span_of

ETAG = '"3-0123abcd"'


class TestSpanOf:
    @pytest.mark.parametrize(
        ("text", "start", "end"),
        [
            ("bytes=0-9", 0, 10),
            ("bytes=0-0", 0, 1),
            ("bytes=99-99", 99, 100),
            ("bytes=90-", 90, 100),
            ("bytes=90-1000", 90, 100),
            ("bytes=-1", 99, 100),
            ("bytes=-1000", 0, 100),
            ("Bytes= 5-6 ", 5, 7),
        ],
    )
    def test_is_the_bytes_that_there_are(self, text, start, end):
        assert span_of(text, 100) == Span(start, end)

    @pytest.mark.parametrize(
        "text",
        [
            None,
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-4",
            "bytes=0-1,5-6",
            "bytes=a-b",
            "items=0-1",
            "bytes=--1",
            "bytes=0x1-2",
            "bytes=\u0661-\u0662",
            f"bytes={'9' * 19}-",
        ],
    )
    def test_is_the_whole_where_it_is_not_one_range(self, text):
        assert span_of(text, 100) is None

    @pytest.mark.parametrize("text", ["bytes=100-", "bytes=100-200", "bytes=-0"])
    def test_is_refused_behind_the_end(self, text):
        with pytest.raises(NoSuchRange) as refused:
            span_of(text, 100)

        assert refused.value.extra == {"size_bytes": 100}

    @pytest.mark.parametrize("text", ["bytes=0-", "bytes=0-0", "bytes=-1"])
    def test_nothing_has_no_range(self, text):
        with pytest.raises(NoSuchRange):
            span_of(text, 0)

    @given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 30))
    def test_agrees_with_a_slice(self, start, last, size):
        body = bytes(range(size))

        try:
            span = span_of(f"bytes={start}-{last}", size)
        except NoSuchRange:
            assert start >= size
        else:
            found = body if span is None else body[span.start : span.end]
            assert found == (body if last < start else body[start : last + 1])
            assert found

    def test_says_where_it_is(self):
        assert Span(0, 10).content_range(100) == "bytes 0-9/100"


class TestHolds:
    @pytest.mark.parametrize("if_range", [None, ETAG, f" {ETAG} "])
    def test_with_the_current_etag_or_none(self, if_range):
        assert holds(if_range, ETAG)

    @pytest.mark.parametrize(
        "if_range", ['"2-0123abcd"', f"W/{ETAG}", "Wed, 21 Oct 2015 07:28:00 GMT", ""]
    )
    def test_not_with_anything_else(self, if_range):
        assert not holds(if_range, ETAG)


class TestIsKnown:
    @pytest.mark.parametrize("known", [ETAG, "*", f"W/{ETAG}", f'"1-00000000", {ETAG}'])
    def test_where_the_etag_is_among_them(self, known):
        assert is_known(known, ETAG)

    @pytest.mark.parametrize("known", [None, "", '"1-00000000"', ETAG.strip('"')])
    def test_not_where_it_is_not(self, known):
        assert not is_known(known, ETAG)
