"""Streams: complete and in order, or not at all."""

import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insula_vault import (
    AES_256_GCM_SIV,
    XCHACHA20_POLY1305,
    IntegrityError,
    open_stream,
    seal,
    seal_stream,
    sealed_size,
)
from insula_vault.stream import CHUNK_BYTES

KEY = bytes(range(32))
BOUND = ("body", "user")
DATA = os.urandom(3 * CHUNK_BYTES + 5)
SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]


def sealed(data: bytes = DATA, **options) -> list[bytes]:
    """The header, then chunks."""
    return list(seal_stream(KEY, io.BytesIO(data), BOUND, key_id="k1", **options))


def opened(pieces: list[bytes], bound=BOUND) -> bytes:
    return b"".join(open_stream(lambda header: KEY, pieces, bound))


class Trickle(io.RawIOBase):
    """A source that gives little at a time."""

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(min(size, 1000))


class TestSealStream:
    @pytest.mark.parametrize("algorithm", [XCHACHA20_POLY1305, AES_256_GCM_SIV])
    @pytest.mark.parametrize("size", SIZES)
    def test_opens_to_the_same_data(self, size, algorithm):
        data = DATA[:size]

        assert opened(sealed(data, algorithm=algorithm)) == data

    @pytest.mark.parametrize("size", SIZES)
    def test_has_the_size_that_was_foretold(self, size):
        pieces = sealed(DATA[:size], note="12")

        assert sum(map(len, pieces)) == sealed_size(size, key_id="k1", note="12")

    def test_takes_a_source_that_gives_little_at_a_time(self):
        pieces = list(seal_stream(KEY, Trickle(DATA), BOUND, key_id="k1"))

        assert [len(piece) for piece in pieces[1:]] == [CHUNK_BYTES + 16] * 3 + [5 + 16]
        assert opened(pieces) == DATA

    def test_tells_the_header_to_whoever_gives_the_key(self):
        said = []

        list(open_stream(lambda header: said.append(header) or KEY, sealed(note="7"), BOUND))

        assert [(one.key_id, one.note) for one in said] == [("k1", "7")]


class TestOpenStream:
    @settings(max_examples=20)
    @given(st.lists(st.integers(1, 100_000), max_size=8))
    def test_takes_pieces_of_any_size(self, sizes):
        whole, pieces, at = b"".join(sealed()), [], 0
        for size in sizes:
            pieces.append(whole[at : at + size])
            at += size

        assert opened([*pieces, b"", whole[at:]]) == DATA

    @settings(max_examples=40)
    @given(st.data())
    def test_refuses_one_that_is_cut_off_anywhere(self, data):
        whole = b"".join(sealed())
        size = data.draw(st.integers(0, len(whole) - 1))

        with pytest.raises(IntegrityError):
            opened([whole[:size]])

    @pytest.mark.parametrize("size", SIZES)
    def test_refuses_one_that_ends_between_two_chunks(self, size):
        pieces = sealed(DATA[:size])

        with pytest.raises(IntegrityError):
            opened(pieces[:-1])

    @given(st.permutations(range(1, 5)))
    def test_refuses_chunks_in_another_order(self, order):
        pieces = sealed()
        shuffled = [pieces[0], *(pieces[place] for place in order)]

        if list(order) == [1, 2, 3, 4]:
            assert opened(shuffled) == DATA
        else:
            with pytest.raises(IntegrityError):
                opened(shuffled)

    @pytest.mark.parametrize(
        "places", [[0, 1, 1, 2, 3, 4], [0, 1, 3, 4], [0, 4], [0, 1, 2, 3, 4, 4]]
    )
    def test_refuses_doubled_and_missing_chunks(self, places):
        pieces = sealed()

        with pytest.raises(IntegrityError):
            opened([pieces[place] for place in places])

    def test_refuses_what_follows_on_the_last_chunk(self):
        with pytest.raises(IntegrityError):
            opened([*sealed(), b"x"])

    def test_refuses_a_chunk_of_another_stream(self):
        ours, theirs = sealed(), sealed()

        with pytest.raises(IntegrityError):
            opened([ours[0], theirs[1], *ours[2:]])

    @settings(max_examples=40)
    @given(st.data())
    def test_refuses_one_with_any_bit_changed(self, data):
        whole = bytearray(b"".join(sealed(b"some data", note="7")))
        bit = data.draw(st.integers(0, len(whole) * 8 - 1))

        whole[bit // 8] ^= 1 << bit % 8

        with pytest.raises(IntegrityError):
            opened([bytes(whole)])

    def test_refuses_other_bound_values(self):
        with pytest.raises(IntegrityError):
            opened(sealed(), ("body", "another user"))

    def test_refuses_a_body_that_is_no_stream(self):
        with pytest.raises(IntegrityError):
            opened([seal(KEY, b"data", BOUND, key_id="k1")])

    def test_yields_what_is_whole_before_the_end_is_there(self):
        whole = b"".join(sealed())

        first = next(open_stream(lambda header: KEY, [whole[: 2 * CHUNK_BYTES]], BOUND))

        assert first == DATA[:CHUNK_BYTES]
