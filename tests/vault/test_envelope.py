"""Sealed bodies: what opens, and that nothing else does."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula_vault import (
    AES_256_GCM_SIV,
    XCHACHA20_POLY1305,
    Binding,
    Entry,
    Header,
    IntegrityError,
    RootKey,
    open_record,
    open_sealed,
    read_header,
    seal,
    seal_record,
)
from insula_vault.encoding import sha256
from insula_vault.envelope import FIELD_MAX_CHARS, STREAM, Series
from insula_vault.records import check_etag, check_name, open_entry, revision

KEY = bytes(range(32))
ROOT = RootKey(KEY)
BINDING = Binding("user", "record", "notes", "k1", "3-1f2e3d4c")
ALGORITHMS = [XCHACHA20_POLY1305, AES_256_GCM_SIV]
texts = st.text(max_size=20)


class TestSeal:
    @given(st.binary(max_size=300), st.lists(texts, max_size=5), st.sampled_from(ALGORITHMS))
    def test_opens_with_the_same_key_and_values(self, data, bound, algorithm):
        sealed = seal(KEY, data, bound, key_id="k1", note="note", algorithm=algorithm)

        assert open_sealed(KEY, sealed, bound) == data

    def test_never_gives_the_same_bytes_twice(self):
        assert seal(KEY, b"data", [], key_id="k1") != seal(KEY, b"data", [], key_id="k1")

    def test_says_key_id_and_note_to_everybody(self):
        header, _ = read_header(seal(KEY, b"data", [], key_id="k1", note="3-1f2e3d4c"))

        assert (header.key_id, header.note) == ("k1", "3-1f2e3d4c")

    def test_refuses_a_note_that_is_too_long(self):
        with pytest.raises(ValueError, match="at most"):
            seal(KEY, b"", [], key_id="k1", note="x" * (FIELD_MAX_CHARS + 1))


class TestOpen:
    @given(st.data(), st.sampled_from(ALGORITHMS))
    def test_refuses_a_body_with_any_bit_changed(self, data, algorithm):
        sealed = bytearray(seal(KEY, b"data", ["a"], key_id="k", note="n", algorithm=algorithm))
        bit = data.draw(st.integers(0, len(sealed) * 8 - 1))

        sealed[bit // 8] ^= 1 << bit % 8

        with pytest.raises(IntegrityError):
            open_sealed(KEY, bytes(sealed), ["a"])

    @given(st.integers(0, 80))
    def test_refuses_a_body_that_is_cut_off(self, size):
        sealed = seal(KEY, b"data", ["a"], key_id="k", note="n")

        with pytest.raises(IntegrityError):
            open_sealed(KEY, sealed[: min(size, len(sealed) - 1)], ["a"])

    @given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
    def test_refuses_any_other_list_of_values(self, bound, others):
        sealed = seal(KEY, b"data", bound, key_id="k")

        if bound == others:
            assert open_sealed(KEY, sealed, others) == b"data"
        else:
            with pytest.raises(IntegrityError):
                open_sealed(KEY, sealed, others)

    def test_refuses_values_that_only_run_together_to_the_same(self):
        sealed = seal(KEY, b"data", ["ab", "c"], key_id="k")

        with pytest.raises(IntegrityError):
            open_sealed(KEY, sealed, ["a", "bc"])

    @given(st.binary(max_size=80))
    def test_refuses_what_it_never_made(self, noise):
        with pytest.raises(IntegrityError):
            open_sealed(KEY, b"INSV\1\1\1" + noise, [])

    def test_refuses_another_key(self):
        with pytest.raises(IntegrityError):
            open_sealed(bytes(32), seal(KEY, b"data", [], key_id="k"), [])

    def test_opens_what_the_first_version_sealed(self):
        sealed = bytes.fromhex(GOLDEN)

        assert open_record(ROOT, BINDING, sealed) == b"\0what the first version wrote"


class TestSeries:
    """Many bodies that begin alike. Whatever opens here, ``open_sealed`` opens to the same."""

    BEFORE, AFTER = ("vector", "user"), ("model", "384")

    def sealed(self, name: str, data: bytes = b"data", algorithm=XCHACHA20_POLY1305) -> bytes:
        bound = (*self.BEFORE, name, *self.AFTER)
        return seal(KEY, data, bound, key_id="1", algorithm=algorithm)

    def series(self, first: bytes) -> Series:
        return Series(KEY, first, self.BEFORE, self.AFTER)

    @given(st.lists(st.tuples(texts, st.binary(max_size=100))), st.sampled_from(ALGORITHMS))
    def test_opens_what_was_sealed_alone(self, items, algorithm):
        made = [self.sealed(*item, algorithm) for item in items]
        series = self.series(self.sealed("first", algorithm=algorithm))

        opened = series.open([(name, one) for one, (name, _) in zip(made, items, strict=True)])

        assert opened == [data for _, data in items]

    def test_opens_up_to_the_first_that_begins_otherwise(self):
        other = seal(KEY, b"data", (*self.BEFORE, "a", *self.AFTER), key_id="2")
        sealed = self.sealed("a")

        assert self.series(sealed).open([("a", sealed), ("a", other), ("a", sealed)]) == [b"data"]

    @pytest.mark.parametrize("bound", [("vector", "user2"), ("vector", "use", "r")])
    def test_refuses_what_was_bound_to_something_else(self, bound):
        sealed = seal(KEY, b"data", (*bound, "a", *self.AFTER), key_id="1")

        with pytest.raises(IntegrityError):
            self.series(sealed).open([("a", sealed)])

    def test_refuses_another_ones_body(self):
        with pytest.raises(IntegrityError):
            self.series(self.sealed("a")).open([("a", self.sealed("b"))])

    @given(st.data())
    def test_refuses_a_body_with_any_bit_changed(self, data):
        sealed = self.sealed("a")
        changed = bytearray(sealed)
        bit = data.draw(st.integers(0, len(sealed) * 8 - 1))

        changed[bit // 8] ^= 1 << bit % 8

        series = self.series(sealed)
        if series.has(bytes(changed)):
            with pytest.raises(IntegrityError):
                series.open([("a", bytes(changed))])
        else:
            assert bit // 8 < len(sealed) - 24

    def test_has_no_body_that_is_cut_off(self):
        sealed = self.sealed("a", b"")
        series = self.series(sealed)

        assert series.has(sealed)
        assert not any(series.has(sealed[:size]) for size in range(len(sealed)))

    def test_has_none_of_another_key_or_cipher(self):
        series = self.series(self.sealed("a"))

        assert not series.has(seal(KEY, b"data", [], key_id="2"))
        assert not series.has(self.sealed("a", algorithm=AES_256_GCM_SIV))

    def test_does_not_begin_with_a_stream(self):
        header = Header(STREAM, XCHACHA20_POLY1305, "1", "", bytes(24)).encode()

        with pytest.raises(IntegrityError, match="stream"):
            self.series(header + bytes(100))


class TestSealRecord:
    @pytest.mark.parametrize("name", [field.name for field in fields(Binding)])
    def test_binds_each_of_its_values(self, name):
        sealed = seal_record(ROOT, BINDING, b"data")
        other = replace(BINDING, **{name: "4-1f2e3d4c" if name == "previous_etag" else "other"})

        with pytest.raises(IntegrityError):
            open_record(ROOT, other, sealed)

    @pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda one: one.name)
    def test_opens_with_either_algorithm(self, algorithm):
        sealed = seal_record(ROOT, BINDING, b"data", algorithm)

        assert open_record(ROOT, BINDING, sealed) == b"data"

    def test_key_ids_have_keys_of_their_own(self):
        sealed = seal_record(ROOT, BINDING, b"data")

        with pytest.raises(IntegrityError):
            open_sealed(ROOT.derive("record", "k2"), sealed, BINDING.fields())


class TestOpenEntry:
    def entry(self, sealed: bytes, number: int) -> Entry:
        checksum = sha256(sealed)
        return Entry("record", "notes", "k1", f"{number}-{checksum[:8]}", checksum, len(sealed))

    def test_opens_the_revision_that_follows(self):
        sealed = seal_record(ROOT, BINDING, b"data")

        assert open_entry(ROOT, "user", self.entry(sealed, 4), sealed) == b"data"

    @pytest.mark.parametrize("number", [1, 3, 5])
    def test_refuses_it_as_any_other_revision(self, number):
        """An old body that is shown as what came of a restore, or again under a new number."""
        sealed = seal_record(ROOT, BINDING, b"data")

        with pytest.raises(IntegrityError, match="was written on 3-1f2e3d4c"):
            open_entry(ROOT, "user", self.entry(sealed, number), sealed)


class TestEtags:
    @pytest.mark.parametrize("etag", ["", "0-1f2e3d4c", "3-1F2E3D4C", "3-1f2e3d4", "x", '"3-x"'])
    def test_what_is_none_is_refused(self, etag):
        with pytest.raises(IntegrityError):
            revision(etag)

    def test_one_of_another_body_is_refused(self):
        with pytest.raises(IntegrityError):
            check_etag("1-1f2e3d4c", "ff" * 32)


class TestNames:
    @pytest.mark.parametrize("name", ["", "_head", "a b", "x" * 65, "ä", "a/b"])
    def test_what_the_server_would_refuse_is_refused(self, name):
        with pytest.raises(ValueError, match="1 to 64"):
            check_name("A table", name)


GOLDEN = (
    "494e53560101010030000000026b310000000a332d31663265336434630000001846afcb0779de50"
    "19c48d4bf6b76c026286811d21db5b8f76ffcd61bee9ed72d12c297d5162ea3cf714a17633cedcdf"
    "09f1c17d49398d0ae5250c31fab3ba91afaab0da3ec9"
)
