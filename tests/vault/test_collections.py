"""Collections: found on the device or ranked by the server, opened or refused."""

from dataclasses import replace

import httpx
import numpy as np
import pytest

from insula_vault import (
    LEAKAGE_ACK,
    Collection,
    CollectionChanged,
    Conflict,
    IntegrityError,
    Item,
    LeakageNotAcknowledged,
    NotFound,
    RootKey,
    Unreachable,
    Vault,
    VectorRefused,
    seal,
)
from insula_vault.definition import Definition, Sealer
from insula_vault.encoding import pack
from tests.vault.devices import device, through
from tests.vault.store import FOUND, Store

DIMENSION = 32
RANDOM = np.random.default_rng(3)
ROWS = RANDOM.standard_normal((60, DIMENSION)).astype("<f4")
NAMED = list(enumerate("abcde"))
MEAN = np.full(DIMENSION, 0.1, "<f4")


@pytest.fixture
def vault(store) -> Vault:
    return device(store)


def items() -> list[Item]:
    return [
        Item(
            f"item-{number}", row, f"text {number}".encode(), {"lang": "de" if number % 2 else "en"}
        )
        for number, row in enumerate(ROWS)
    ]


def make(vault: Vault, mode: str) -> Collection:
    if mode == "sealed":
        made = vault.collections.create_sealed("notes", model="m", dimension=DIMENSION)
    else:
        made = vault.collections.create_dcpe("notes", model="m", mean=MEAN, leakage_ack=LEAKAGE_ACK)
    made.upsert(items())
    return made


def exact(query: np.ndarray, count: int) -> list[str]:
    scores = ROWS @ query / np.linalg.norm(ROWS, axis=1)
    return [f"item-{number}" for number in np.argsort(-scores)[:count]]


@pytest.fixture(params=["sealed", "dcpe"])
def mode(request) -> str:
    return request.param


class TestSearch:
    def test_finds_the_nearest_with_their_data_and_exact_cosines(self, store, vault, mode):
        make(vault, mode)
        found = device(store).collections.open("notes").search(ROWS[7], top_k=3)

        assert [hit.id for hit in found] == exact(ROWS[7], 3)
        assert found[0].data == b"text 7"
        assert found[0].score == pytest.approx(1.0)

    def test_finds_the_same_in_a_store_that_answers_json(self, store, vault):
        made = make(vault, "dcpe")
        found = made.search(ROWS[7], top_k=60, overfetch=60)

        store.is_old = True

        assert len(found) == 60
        assert made.search(ROWS[7], top_k=60, overfetch=60) == found

    def test_filters_by_tags(self, vault, mode):
        found = make(vault, mode).search(ROWS[7], top_k=10, tags={"lang": "en"})

        assert len(found) == 10
        assert all(int(hit.id.removeprefix("item-")) % 2 == 0 for hit in found)

    def test_sees_what_another_device_put_in(self, store, vault, mode):
        ours = make(vault, mode)
        ours.search(ROWS[0])

        device(store).collections.open("notes").upsert([Item("new", ROWS[0] * 2, b"new")])

        assert {hit.id for hit in ours.search(ROWS[0], top_k=2)} == {"new", "item-0"}

    def test_of_an_empty_collection_finds_nothing(self, vault):
        empty = vault.collections.create_sealed("notes", model="m", dimension=DIMENSION)

        assert empty.search(ROWS[0]) == []

    @pytest.mark.parametrize("options", [{"top_k": 0}, {"top_k": 51}, {"overfetch": 1001}])
    def test_refuses_what_is_out_of_bounds(self, vault, mode, options):
        with pytest.raises(ValueError, match="top_k"):
            make(vault, mode).search(ROWS[0], **options)

    def test_refuses_a_query_of_another_model(self, vault, mode):
        with pytest.raises(VectorRefused):
            make(vault, mode).search(ROWS[0][:8])

    def test_asks_the_server_nothing_about_the_query_in_a_sealed_one(self, store, vault):
        make(vault, "sealed").search(ROWS[0])

        assert "POST /api/v1/storage/vectors/search" not in store.requests

    def test_fetches_an_item_once(self, store, vault):
        made = make(vault, "sealed")
        made.search(ROWS[0])
        asked = len(store.requests)

        made.search(ROWS[1])

        assert store.requests[asked:] == ["GET /api/v1/storage/changes"]

    def test_begins_again_beyond_the_horizon(self, store, vault):
        made = make(vault, "sealed")
        made.search(ROWS[0])
        store.horizon = 10_000

        assert made.search(ROWS[7], top_k=1)[0].id == "item-7"


class TestWhatTheServerHas:
    def test_is_no_exact_vector_and_no_text(self, store, vault, mode):
        make(vault, mode)

        sent = b"".join(store.bodies)
        assert b"text 7" not in sent
        assert not any(ROWS[7].tobytes() in one.vector for one in store.disk.vectors.values())

    def test_is_no_vector_at_all_in_a_sealed_one(self, store, vault):
        make(vault, "sealed")

        assert {one.vector for one in store.disk.vectors.values()} == {b""}

    def test_is_no_value_of_a_tag(self, store, vault, mode):
        make(vault, mode)

        values = {one.tags["lang"] for one in store.disk.vectors.values()}
        assert len(values) == 2
        assert not values & {"de", "en"}

    def test_is_no_name_of_the_model(self, store, vault, mode):
        make(vault, mode)

        assert "model" not in store.disk.collections["notes"]


class TestLies:
    def test_two_items_exchanged_are_caught(self, store, vault, mode):
        """V6."""
        made = make(vault, mode)
        first = store.disk.vectors["notes", "item-7"]
        second = store.disk.vectors["notes", "item-8"]
        first.sealed, second.sealed = second.sealed, first.sealed

        with pytest.raises(IntegrityError):
            made.search(ROWS[7])

    def test_an_item_of_another_collection_is_caught(self, store, vault):
        make(vault, "sealed")
        other = vault.collections.create_sealed("other", model="m", dimension=DIMENSION)
        other.upsert([Item("item-7", ROWS[8])])
        sealed = store.disk.vectors["notes", "item-7"].sealed
        store.disk.vectors["other", "item-7"].sealed = sealed

        with pytest.raises(IntegrityError):
            other.search(ROWS[7])

    def test_an_item_of_an_epoch_that_has_ended_is_caught(self, store, vault):
        make(vault, "dcpe")
        old = store.disk.vectors["notes", "item-7"].sealed
        rotated = vault.collections.rotate("notes")
        store.disk.vectors["notes", "item-7"].sealed = old

        with pytest.raises(IntegrityError, match="has ended"):
            rotated.search(ROWS[7])

    def test_what_the_server_says_of_the_mode_is_not_believed(self, store, vault):
        make(vault, "sealed")
        store.disk.collections["notes"] = {"mode": "plain", "dimension": DIMENSION}

        device(store).collections.open("notes").upsert([Item("new", ROWS[0])])

        assert store.disk.vectors["notes", "new"].vector == b""

    @pytest.mark.parametrize("said", [{}, {"items": 7}, {"items": [{"id": "item-7"}]}])
    def test_answers_that_are_none_are_refused(self, store, vault, said):
        make(vault, "dcpe")

        with pytest.raises(IntegrityError):
            told(store, httpx.Response(200, json=said)).search(ROWS[7])

    def test_answers_in_bytes_that_are_none_are_refused(self, store, vault):
        make(vault, "dcpe")
        answer = httpx.Response(200, content=b"none", headers={"content-type": FOUND})

        with pytest.raises(IntegrityError):
            told(store, answer).search(ROWS[7])

    def test_more_items_than_were_asked_for_are_refused(self, store, vault):
        made = make(vault, "dcpe")
        items = [{"id": f"item-{n}", "sealed": ""} for n in range(11)]

        with pytest.raises(IntegrityError, match="more than 10 items"):
            told(store, httpx.Response(200, json={"items": items})).search(ROWS[7], overfetch=10)

        assert len(made.search(ROWS[7], overfetch=10)) == 10


def told(store: Store, answer: httpx.Response) -> Collection:
    """The collection, whose searches are all answered so."""

    def handle(request: httpx.Request) -> httpx.Response:
        return answer if request.url.path.endswith("/search") else store.handle(request)

    return through(httpx.MockTransport(handle)).collections.open("notes")


class TestSealer:
    """Items of one collection, many at once."""

    DEFINITION = Definition("notes", "sealed", "m", 2, 0.0, "", (1, 2))

    def sealer(self, epochs: tuple[int, ...] = (1, 2)) -> Sealer:
        return Sealer(RootKey(bytes(32)), "user", replace(self.DEFINITION, epochs=epochs))

    def test_opens_items_of_several_epochs(self):
        ours, former = self.sealer(), self.sealer((1,))
        items = [(one, (ours, former)[n % 2].seal(one, b"8 bytes.", b"")) for n, one in NAMED]

        opened = ours.open(items)

        assert [one.epoch for one in opened] == [2, 1, 2, 1, 2]
        assert {(one.vector, one.data) for one in opened} == {(b"8 bytes.", b"")}

    def test_opens_nothing_of_nothing(self):
        assert self.sealer().open([]) == []

    @pytest.mark.parametrize(
        "packed",
        [
            b"",
            pack(b"8 bytes."),
            pack(b"7 bytes", b"data"),
            pack(b"8 bytes.", b"data", b"more"),
            pack(b"8 bytes.", b"data")[:-1],
        ],
    )
    def test_refuses_what_is_no_vector_and_data(self, packed):
        ours = self.sealer()
        before, after = ours.definition.bound("user", 2)
        key = ours.root.derive("vector", "notes", "2")
        sealed = seal(key, packed, (*before, "a", *after), key_id="2")

        with pytest.raises(IntegrityError, match="vector of another length"):
            ours.open([("a", sealed)])

    def test_refuses_one_bad_item_among_good_ones(self):
        ours = self.sealer()
        items = [(one, ours.seal(one, b"8 bytes.", b"")) for _, one in NAMED]
        items[3] = ("d", items[2][1])

        with pytest.raises(IntegrityError):
            ours.open(items)


class TestDelete:
    def test_of_items_takes_them_out(self, store, vault, mode):
        made = make(vault, mode)
        made.search(ROWS[7])

        deleted = made.delete(["item-7", "nothing"])

        assert deleted == 1
        assert "item-7" not in {hit.id for hit in made.search(ROWS[7], top_k=50)}

    def test_of_a_collection_forgets_it(self, store, vault, mode):
        make(vault, mode)

        vault.collections.delete("notes")

        assert store.disk.collections == {}
        with pytest.raises(NotFound):
            vault.collections.open("notes")


class TestUpsert:
    def test_replaces_an_item(self, vault, mode):
        made = make(vault, mode)

        made.upsert([Item("item-7", ROWS[7], b"another text")])

        assert made.search(ROWS[7], top_k=1)[0].data == b"another text"

    @pytest.mark.parametrize("vector", [ROWS[0][:8], ROWS[:2], [float("nan")] * DIMENSION])
    def test_refuses_what_is_no_vector(self, vault, mode, vector):
        with pytest.raises(VectorRefused):
            make(vault, mode).upsert([Item("x", vector)])

    def test_sends_pages_that_a_server_takes(self, store, vault):
        made = vault.collections.create_sealed("notes", model="m", dimension=DIMENSION)

        made.upsert([Item(str(number), ROWS[0], bytes(60_000)) for number in range(100)])

        sizes = [len(body) for body in store.bodies if b"vectors" in body]
        assert len(store.disk.vectors) == 100
        assert len(sizes) == 2
        assert max(sizes) < 8 * 2**20


class TestCreate:
    def test_of_what_leaks_needs_to_be_acknowledged(self, store, vault):
        with pytest.raises(LeakageNotAcknowledged, match="not semantic security"):
            vault.collections.create_dcpe("notes", model="m", mean=MEAN, leakage_ack="yes")

        assert store.disk.collections == {}

    def test_of_a_name_that_is_taken_is_a_conflict(self, vault, mode):
        make(vault, mode)

        with pytest.raises(Conflict):
            make(vault, "sealed")

    def test_refuses_a_beta_before_it_writes(self, store, vault):
        with pytest.raises(VectorRefused):
            vault.collections.create_dcpe(
                "notes", model="m", mean=MEAN, leakage_ack=LEAKAGE_ACK, beta=0.5
            )

        assert store.disk.collections == {}


class TestRotate:
    def test_brings_every_item_under_another_key(self, store, vault):
        make(vault, "dcpe")
        before = {key: one.vector for key, one in store.disk.vectors.items()}

        rotated = vault.collections.rotate("notes")

        assert {one.epoch for one in store.disk.vectors.values()} == {2}
        assert all(one.vector != before[key] for key, one in store.disk.vectors.items())
        assert rotated.epochs == (2,)
        assert [hit.id for hit in rotated.search(ROWS[7], top_k=3)] == exact(ROWS[7], 3)
        assert len(rotated.search(ROWS[7], top_k=30, tags={"lang": "en"})) == 30

    def test_is_told_to_a_device_that_has_the_collection_open(self, store, vault):
        make(vault, "dcpe")
        stale = device(store).collections.open("notes")
        vault.collections.rotate("notes")

        with pytest.raises(CollectionChanged):
            stale.search(ROWS[7])
        with pytest.raises(CollectionChanged):
            stale.upsert([Item("new", ROWS[7])])

    def test_of_a_sealed_one_brings_every_item_under_another_key(self, store, vault):
        stale = make(vault, "sealed")

        rotated = vault.collections.rotate("notes")

        assert rotated.search(ROWS[7], top_k=1)[0].id == "item-7"
        with pytest.raises(CollectionChanged):
            stale.search(ROWS[7])

    def test_that_broke_off_is_searched_in_both_epochs_and_goes_on(self, store, vault):
        make(vault, "dcpe")

        def cut(request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/upsert"):
                raise httpx.ConnectError("cut")
            return store.handle(request)

        with pytest.raises(Unreachable):
            through(httpx.MockTransport(cut)).collections.rotate("notes")
        broken = vault.collections.open("notes")
        broken.upsert([Item("new", ROWS[7], b"new")])

        found = broken.search(ROWS[7], top_k=2)

        assert broken.epochs == (1, 2)
        assert {hit.id for hit in found} == {"new", "item-7"}
        assert vault.collections.rotate("notes").epochs == (2,)
        assert {one.epoch for one in store.disk.vectors.values()} == {2}
