"""What a script prints, as it is shown and kept."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.sandbox.domain.output import Capture, OutputStream
from app.modules.sandbox.domain.redaction import Redactor

SECRET = "hunter2-and-more"
MARKED = "[REDACTED...more]"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def captured(keep_bytes, *pieces):
    capture = Capture(keep_bytes)
    for piece in pieces:
        capture.add(piece)
    return capture


def opened(keep_bytes=1000):
    return OutputStream(Redactor({"KEY": SECRET}), keep_bytes)


class TestAdd:
    def test_keeps_what_fits(self):
        capture = captured(10, "12345", "67890")

        assert capture.text() == "1234567890"
        assert not capture.is_truncated

    def test_keeps_the_head_and_the_tail_of_more(self):
        capture = captured(10, "12345", "..", "...", "67890")

        assert capture.text() == "12345\n[... 5 bytes left out ...]\n67890"
        assert capture.is_truncated

    def test_says_nothing_of_an_empty_text(self):
        assert captured(10).text() == ""

    def test_keeps_one_byte_at_least(self):
        assert captured(1, "abc").text() == "a\n[... 2 bytes left out ...]\n"

    def test_leaves_out_a_character_that_the_cut_goes_through(self):
        capture = captured(10, "\u20ac" * 10)

        assert capture.text() == "\u20ac\n[... 24 bytes left out ...]\n\u20ac"

    def test_measures_bytes(self):
        assert captured(10, "\u20ac\n").size_bytes == 4

    @given(st.integers(1, 40), st.lists(texts, max_size=8))
    def test_keeps_the_same_however_it_is_cut(self, keep_bytes, pieces):
        whole = captured(keep_bytes, "".join(pieces))

        capture = captured(keep_bytes, *pieces)

        assert capture.text() == whole.text()
        assert capture.size_bytes == whole.size_bytes

    @given(st.integers(1, 40), st.lists(texts, max_size=8))
    def test_keeps_no_more_than_it_may_and_counts_the_rest(self, keep_bytes, pieces):
        text = "".join(pieces)

        capture = captured(keep_bytes, *pieces)

        if capture.is_truncated:
            kept, _, rest = capture.text().partition("\n[... ")
            missing, _, tail = rest.partition(" bytes left out ...]\n")
            size = len(kept.encode()) + len(tail.encode())
            assert text.startswith(kept)
            assert text.endswith(tail)
            assert size <= keep_bytes
            assert size + int(missing) == len(text.encode())
        else:
            assert capture.text() == text

    @pytest.mark.parametrize("piece", ["x", "x" * 1000, "x" * 100_000])
    def test_takes_the_same_memory_whatever_comes(self, piece):
        capture = captured(1000, piece * (200_000 // len(piece)))
        tracemalloc.start()

        for _ in range(1_000_000 // len(piece) // 10):
            capture.add(piece)

        grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert grown < 10_000


class TestFeed:
    def test_returns_what_may_be_shown_now(self):
        assert opened().feed(b"50% \x1b[32mgreen") == "50% \x1b[32mgreen"

    def test_joins_a_character_over_the_seam(self):
        stream = opened()

        assert stream.feed(b"caf\xc3") == "caf"
        assert stream.feed(b"\xa9") == "\u00e9"

    def test_replaces_what_is_no_utf8_and_nul(self):
        assert opened().feed(b"a\xffb\0c\xed\xa0\x80d") == "a\ufffdb\ufffdc\ufffd\ufffd\ufffdd"

    def test_hides_a_secret_over_the_seam(self):
        stream = opened()

        shown = stream.feed(b"<hunter2-") + stream.feed(b"and-more>") + stream.finish()

        assert shown == stream.text == f"<{MARKED}>"

    def test_counts_bytes_as_they_came(self):
        stream = opened()

        stream.feed(b"\xff" + SECRET.encode())

        assert stream.raw_bytes == 1 + len(SECRET)

    @given(
        st.lists(st.binary(max_size=10) | st.sampled_from([SECRET.encode(), b"\xf0\x9f", b"hu"]))
    )
    def test_shows_and_keeps_the_same_however_it_is_cut(self, pieces):
        whole, cut = opened(), opened()

        expected = whole.feed(b"".join(pieces)) + whole.finish()
        shown = "".join(cut.feed(piece) for piece in pieces) + cut.finish()

        assert shown == expected == cut.text == whole.text


class TestFinish:
    def test_gives_out_what_was_held_back(self):
        stream = opened()
        stream.feed(b"who hunt")

        assert stream.finish() == "hunt"
        assert stream.text == "who hunt"

    def test_replaces_half_a_character(self):
        stream = opened()
        stream.feed(b"caf\xc3")

        assert stream.finish() == "\ufffd"

    def test_keeps_head_and_tail_of_a_flood(self):
        stream = opened(keep_bytes=20)
        for _ in range(1000):
            stream.feed(b"y\n" * 500)

        stream.finish()

        assert stream.is_truncated
        assert stream.raw_bytes == 1_000_000
        assert stream.text == "y\n" * 5 + "\n[... 999980 bytes left out ...]\n" + "y\n" * 5
