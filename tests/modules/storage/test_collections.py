"""Collections over HTTP."""

from pathlib import Path
from uuid import uuid4

import pytest

from app.modules.storage.domain.vectors import LEAKAGE
from tests.modules.storage.desks import Desk, problem
from tests.modules.storage.vectors import Library, item, items, points

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def library(fresh: Desk) -> Library:
    return Library(fresh)


class TestPut:
    async def test_dcpe_without_acknowledgement_is_428_with_what_leaks(self, library):
        answer = await library.make(mode="dcpe", leakage_ack=None)

        assert problem(answer) == (428, "leakage-not-acknowledged")
        assert answer.json()["leakage"] == LEAKAGE
        assert (await library.read()).status_code == 404

    async def test_dcpe_with_acknowledgement_is_200(self, library):
        answer = await library.make(mode="dcpe", model="mini", beta=2.5, epoch=3)

        made = answer.json()
        assert (answer.status_code, made["mode"], made["dimension"]) == (200, "dcpe", 8)
        assert (made["model"], made["beta"], made["epoch"]) == ("mini", 2.5, 3)

    @pytest.mark.parametrize("mode", ["sealed", "plain", "dcpe"])
    async def test_again_is_200_and_the_same(self, library, mode):
        first = await library.make(mode=mode)

        answer = await library.make(mode=mode)

        assert (answer.status_code, answer.json()) == (200, first.json())

    @pytest.mark.parametrize("change", [{"mode": "plain"}, {"mode": "dcpe", "dimension": 9}])
    async def test_another_mode_or_dimension_is_409(self, library, change):
        await library.make(mode="dcpe")

        answer = await library.make(**change)

        assert problem(answer) == (409, "collection-differs")

    async def test_a_higher_epoch_is_a_rotation(self, library):
        await library.make(mode="dcpe")

        answer = await library.make(mode="dcpe", epoch=2, beta=1.0)

        assert (answer.status_code, answer.json()["epoch"], answer.json()["beta"]) == (200, 2, 1.0)

    async def test_an_earlier_epoch_is_409(self, library):
        await library.make(epoch=2)

        answer = await library.make(epoch=1)

        assert (*problem(answer), answer.json()["epoch"]) == (409, "epoch-mismatch", 2)

    @pytest.mark.parametrize(
        "change",
        [
            {"dimension": 0},
            {"dimension": 4097},
            {"dimension": None},
            {"mode": "open"},
            {"beta": 2.0},
            {"epoch": -1},
            {"model": "m" * 129},
            {"more": 1},
        ],
    )
    async def test_what_is_no_collection_is_400(self, library, change):
        assert problem(await library.make(**change))[0] == 400

    async def test_a_name_that_is_none_is_400(self, library):
        assert problem(await library.make(".hidden")) == (400, "collection-invalid")

    async def test_needs_a_tier_with_storage(self, library):
        anna = Library(await library.desk.member(uuid4().hex, None))

        assert problem(await anna.make()) == (403, "tier-required")


class TestList:
    async def test_is_yours_by_name(self, library):
        anna = Library(await library.desk.member(uuid4().hex))
        await anna.make("hers")
        for name in ("b", "a"):
            await library.make(name)

        answer = await library.desk.ask("GET", "/collections")

        assert [one["name"] for one in answer.json()["items"]] == ["a", "b"]

    async def test_says_how_much_is_in_each(self, library):
        await library.make()
        await library.upsert(item("a", points(1)[0], b"four"))

        (found,) = (await library.desk.ask("GET", "/collections")).json()["items"]

        assert (found["vectors"], found["size_bytes"]) == (1, 32 + 4)


class TestRead:
    async def test_of_somebody_else_answers_like_an_unknown_one(self, library):
        anna = Library(await library.desk.member(uuid4().hex))
        await anna.make()

        theirs, unknown = await library.read(), await library.read("other")

        assert problem(theirs) == problem(unknown) == (404, "no-such-collection")


class TestRemove:
    async def test_is_204_and_then_404(self, library):
        await library.make()
        await library.upsert(item("a", points(1)[0]))

        answers = [await library.desk.ask("DELETE", "/collections/notes") for _ in range(2)]

        assert [answer.status_code for answer in answers] == [204, 404]
        assert problem(await library.get("a"))[0] == 404

    async def test_gives_the_room_back(self, library):
        await library.make()
        await library.upsert(*items(points(5)))

        await library.desk.ask("DELETE", "/collections/notes")

        assert (await library.desk.usage())["used_bytes"] == 0

    async def test_leaves_a_tombstone_of_each_vector(self, library):
        await library.make()
        await library.upsert(*items(points(3)))

        await library.desk.ask("DELETE", "/collections/notes")

        feed = (await library.desk.changes(kinds="vector"))["items"]
        told = [(one["id"], one["table"], one["is_deleted"]) for one in feed]
        assert told == [(f"n{i:05}", "notes", True) for i in range(3)]

    async def test_of_somebody_else_is_404(self, library):
        anna = Library(await library.desk.member(uuid4().hex))
        await anna.make()

        answer = await library.desk.ask("DELETE", "/collections/notes")

        assert problem(answer)[0] == 404
        assert (await anna.read()).status_code == 200

    async def test_frees_its_name(self, library):
        await library.make()
        await library.upsert(item("a", points(1)[0]))
        await library.desk.ask("DELETE", "/collections/notes")

        answer = await library.make(mode="dcpe")

        assert (answer.status_code, answer.json()["vectors"]) == (200, 0)
        assert await library.found(points(1)[0]) == []

    async def test_removes_its_files(self, library):
        await library.make()
        await library.upsert(item("a", points(1)[0]))
        await library.found(points(1)[0])
        before = folders(library)

        await library.desk.ask("DELETE", "/collections/notes")

        assert len(before - folders(library)) == 1


def folders(library: Library) -> set[str]:
    """The names of what the index keeps."""
    data = Path(library.desk.house.kit.house.data_dir)
    return {path.name for path in (data / "vectors").iterdir()}
