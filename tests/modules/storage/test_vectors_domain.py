"""What a collection is, and what is taken into it."""

import struct

import pytest

from app.modules.storage.domain.digests import DigestMalformed, DigestMismatch
from app.modules.storage.domain.vectors import (
    LEAKAGE,
    SEALED_LIMIT_BYTES,
    TAG_LIMIT_CHARS,
    TAGS_LIMIT,
    BlobTooLarge,
    CollectionDiffers,
    CollectionInvalid,
    Definition,
    EpochMismatch,
    Item,
    ItemInvalid,
    LeakageNotAcknowledged,
    VectorInvalid,
    Wish,
    define,
    redefine,
    require_acknowledgement,
    require_epoch,
    require_items,
    require_known_epoch,
    require_name,
    require_tags,
    require_vector,
)
from tests.modules.storage.vectors import item

CURRENT = Definition("dcpe", 3, "mini", 4, 2.0)
NAN, INF = float("nan"), float("inf")


def raw(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


class TestRequireName:
    @pytest.mark.parametrize("name", ["a", "Notes-2026_b.c", "x" * 64, "-", "_"])
    def test_takes(self, name):
        assert require_name(name) == name

    @pytest.mark.parametrize("name", ["", "x" * 65, ".", "..", ".a", "a b", "a/b", "é", "a\n"])
    def test_refuses(self, name):
        with pytest.raises(CollectionInvalid):
            require_name(name)


class TestRequireAcknowledgement:
    @pytest.mark.parametrize("given", [None, "", "yes", "dcpe-v2"])
    def test_of_noised_vectors_is_missing(self, given):
        with pytest.raises(LeakageNotAcknowledged) as refused:
            require_acknowledgement(Wish("dcpe", 3), given)

        assert refused.value.extra == {"leakage": LEAKAGE, "leakage_ack": "dcpe-v1"}

    def test_of_noised_vectors_is_there(self):
        require_acknowledgement(Wish("dcpe", 3), "dcpe-v1")

    @pytest.mark.parametrize("mode", ["sealed", "plain"])
    def test_is_asked_of_no_other_mode(self, mode):
        require_acknowledgement(Wish(mode, 3), None)


class TestDefine:
    def test_begins_at_the_first_epoch(self):
        assert define(Wish("plain", 3)) == Definition("plain", 3, "", 1, None)

    def test_keeps_what_is_said(self):
        assert define(Wish("dcpe", 3, "mini", 4, 2.0)) == CURRENT

    def test_a_sealed_one_needs_no_dimension(self):
        assert define(Wish("sealed")) == Definition("sealed", 0, "", 1, None)

    @pytest.mark.parametrize("mode", ["dcpe", "plain"])
    def test_any_other_needs_one(self, mode):
        with pytest.raises(CollectionInvalid):
            define(Wish(mode))

    @pytest.mark.parametrize("mode", ["sealed", "plain"])
    def test_noise_belongs_to_dcpe(self, mode):
        with pytest.raises(CollectionInvalid):
            define(Wish(mode, 3, beta=2.0))


class TestRedefine:
    @pytest.mark.parametrize("wish", [Wish("dcpe"), Wish("dcpe", 3, "mini", 4, 2.0)])
    def test_the_same_stays_the_same(self, wish):
        assert redefine(CURRENT, wish) == CURRENT

    @pytest.mark.parametrize(
        "wish",
        [
            Wish("plain"),
            Wish("dcpe", 4),
            Wish("dcpe", 4, epoch=5),
            Wish("dcpe", model="maxi"),
            Wish("dcpe", beta=1.0),
        ],
    )
    def test_another_one_is_refused(self, wish):
        with pytest.raises(CollectionDiffers):
            redefine(CURRENT, wish)

    def test_a_higher_epoch_may_have_another_model_and_noise(self):
        after = redefine(CURRENT, Wish("dcpe", 3, "maxi", 5, 1.0))

        assert after == Definition("dcpe", 3, "maxi", 5, 1.0)

    def test_an_earlier_epoch_is_refused_with_the_current_one(self):
        with pytest.raises(EpochMismatch) as refused:
            redefine(CURRENT, Wish("dcpe", epoch=3))

        assert refused.value.extra == {"epoch": 4}


class TestEpochs:
    @pytest.mark.parametrize("epoch", [None, 4])
    def test_written_is_the_current_one(self, epoch):
        assert require_epoch(4, epoch) == 4

    @pytest.mark.parametrize("epoch", [3, 5])
    def test_no_other_is_written(self, epoch):
        with pytest.raises(EpochMismatch):
            require_epoch(4, epoch)

    @pytest.mark.parametrize(("epoch", "sought"), [(None, 4), (4, 4), (3, 3)])
    def test_searched_is_any_that_was(self, epoch, sought):
        assert require_known_epoch(4, epoch) == sought

    def test_one_that_never_was_is_not_searched(self):
        with pytest.raises(EpochMismatch):
            require_known_epoch(4, 5)


class TestRequireVector:
    @pytest.mark.parametrize("vector", [raw(1, 2, 3), raw(0, 0, -1e-14), raw(1e14, 0, 0)])
    def test_takes_a_direction(self, vector):
        require_vector(vector, 3)

    @pytest.mark.parametrize(
        "vector",
        [
            b"",
            raw(1, 2),
            raw(1, 2, 3, 4),
            raw(1, 2, 3)[:-1],
            raw(0, 0, 0),
            raw(0, 0, 1e-20),
            raw(1, 2, NAN),
            raw(1, INF, 3),
            raw(-INF, 2, 3),
            raw(INF, NAN, 3),
            raw(1e20, 0, 0),
        ],
    )
    def test_refuses(self, vector):
        with pytest.raises(VectorInvalid):
            require_vector(vector, 3)


class TestRequireItems:
    def test_takes_a_vector_and_a_blob(self):
        require_items([item("a", raw(1, 2, 3)), item("b", raw(1, 2, 3))], "plain", 3)

    def test_takes_a_blob_alone_into_a_sealed_collection(self):
        require_items([item("a")], "sealed", 0)

    def test_takes_no_vector_into_a_sealed_collection(self):
        with pytest.raises(VectorInvalid):
            require_items([item("a", raw(1, 2, 3))], "sealed", 3)

    def test_misses_a_vector_elsewhere(self):
        with pytest.raises(VectorInvalid):
            require_items([item("a")], "dcpe", 3)

    def test_refuses_the_same_id_twice(self):
        with pytest.raises(ItemInvalid):
            require_items([item("a"), item("b"), item("a")], "sealed", 0)

    @pytest.mark.parametrize("item_id", ["", "x" * 65, "a b", "a/b", ".a", "é", "a\n"])
    def test_refuses_ids_that_are_none(self, item_id):
        with pytest.raises(ItemInvalid):
            require_items([item(item_id, blob=b"")], "sealed", 0)

    def test_takes_the_longest_blob(self):
        require_items([item("a", blob=b"x" * SEALED_LIMIT_BYTES)], "sealed", 0)

    def test_refuses_a_longer_one(self):
        with pytest.raises(BlobTooLarge):
            require_items([item("a", blob=b"x" * (SEALED_LIMIT_BYTES + 1))], "sealed", 0)

    def test_refuses_other_bytes_than_announced(self):
        good = item("a")
        bad = Item("b", b"", b"changed", good.sha256)

        with pytest.raises(DigestMismatch) as refused:
            require_items([good, bad], "sealed", 0)

        assert refused.value.extra == {"item": "b"}

    def test_refuses_a_checksum_that_is_none(self):
        with pytest.raises(DigestMalformed):
            require_items([Item("a", b"", b"", "abc")], "sealed", 0)

    def test_takes_a_checksum_in_capitals(self):
        good = item("a")

        require_items([Item("a", b"", good.sealed, good.sha256.upper())], "sealed", 0)


class TestRequireTags:
    def test_takes_the_most_there_may_be(self):
        most = {f"{i:064}": "v" * TAG_LIMIT_CHARS for i in range(TAGS_LIMIT)}

        require_tags(most)

    @pytest.mark.parametrize(
        "tags",
        [
            {str(i): "" for i in range(TAGS_LIMIT + 1)},
            {"": "v"},
            {"n" * (TAG_LIMIT_CHARS + 1): "v"},
            {"n": "v" * (TAG_LIMIT_CHARS + 1)},
        ],
    )
    def test_refuses(self, tags):
        with pytest.raises(ItemInvalid):
            require_tags(tags)
