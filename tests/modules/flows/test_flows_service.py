"""Flows: whose they are, how they change, and what an execution would run."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from sqlalchemy import event

from app.modules.flows.domain.definitions import FlowInvalid
from app.modules.flows.domain.versions import rank
from app.modules.flows.service import flows as service
from app.modules.flows.service.flows import (
    FlowTaken,
    IdMismatch,
    NotYours,
    TooManyFlows,
    TooManyVersions,
)
from app.modules.flows.service.plans import DEPTH_LIMIT, NODES_LIMIT, NoSuchFlow
from tests.modules.flows.shelves import ANNA, BERT, Shelf, flow, inner, people, step

CHANGES = 24


@pytest.fixture
async def shelf(sqlite) -> Shelf:
    await people(sqlite)
    return Shelf(sqlite)


@pytest.fixture
async def either(db) -> Shelf:
    """On both databases, for what they could do differently."""
    await people(db)
    return Shelf(db)


@contextmanager
def statements(db) -> Iterator[list[str]]:
    """What the database is asked in the block, but for the frame of its transactions."""
    asked: list[str] = []

    def note(_connection, _cursor, statement, *_) -> None:
        asked.append(statement)

    engines = [db.reader.sync_engine, db.writer.sync_engine]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    yield asked
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)


def queries(asked: list[str]) -> list[str]:
    return [statement for statement in asked if not statement.startswith(("BEGIN", "PRAGMA"))]


class TestCreate:
    async def test_keeps_a_flow(self, either):
        made = await either.flows.create(ANNA, flow("review", name="Review"))

        assert (made.flow.name, made.source, made.created_by) == ("Review", "api", ANNA)
        assert await either.flows.get(ANNA, "review") == made

    async def test_refuses_an_id_that_the_user_has_used(self, either):
        await either.create()

        with pytest.raises(FlowTaken):
            await either.create()

    async def test_refuses_an_id_of_the_installation(self, shelf):
        shelf.files.put(flow("review"))

        with pytest.raises(FlowTaken):
            await shelf.create()

    async def test_leaves_every_user_a_name_space(self, shelf):
        await shelf.create("review", name="Anna's")
        await shelf.flows.create(BERT, flow("review", name="Bert's"))

        assert (await shelf.flows.get(ANNA, "review")).flow.name == "Anna's"
        assert (await shelf.flows.get(BERT, "review")).flow.name == "Bert's"

    async def test_one_of_many_at_once_is_made(self, either):
        flows = [flow("review", name=f"n{number}") for number in range(8)]

        made = await asyncio.gather(
            *(either.flows.create(ANNA, one) for one in flows), return_exceptions=True
        )

        [kept] = [one for one in made if not isinstance(one, FlowTaken)]
        assert await either.flows.get(ANNA, "review") == kept

    async def test_names_the_node_with_an_agent_that_is_not_there(self, shelf):
        with pytest.raises(FlowInvalid) as caught:
            await shelf.create("review", step("a", agent_id="helper"), step("b", agent_id="other"))

        assert caught.value.extra == {"node": "b", "field": "agent_id"}

    async def test_another_users_agents_are_not_there(self, shelf):
        with pytest.raises(FlowInvalid):
            await shelf.flows.create(BERT, flow("review", step("a", agent_id="helper")))

    async def test_names_the_node_with_a_flow_that_is_not_there(self, shelf):
        with pytest.raises(FlowInvalid) as caught:
            await shelf.create("review", step("a"), inner("b", "missing"))

        assert caught.value.extra == {"node": "b"}

    async def test_a_deleted_flow_may_be_made_again_above_what_it_was(self, either):
        await either.create("review", version="1.4")
        await either.flows.delete(ANNA, "review")

        again = await either.flows.create(ANNA, flow("review", version="1.0.0"))

        assert again.flow.version == "1.5"
        assert (await either.flows.get(ANNA, "review", "1.4")).flow.version == "1.4"

    async def test_a_user_may_have_so_many(self, shelf, monkeypatch):
        monkeypatch.setattr(service, "FLOWS_LIMIT", 2)
        await shelf.create("one")
        await shelf.create("two")

        with pytest.raises(TooManyFlows):
            await shelf.create("three")


class TestChange:
    async def test_raises_the_last_part_of_the_version(self, either):
        await either.create("review", version="1.2.9")

        changed = await either.flows.change(ANNA, "review", {"name": "Other"})

        assert (changed.flow.version, changed.flow.name) == ("1.2.10", "Other")

    async def test_takes_a_version_that_is_higher(self, shelf):
        await shelf.create()

        changed = await shelf.flows.change(ANNA, "review", {"version": "2.0.0"})

        assert changed.flow.version == "2.0.0"

    async def test_leaves_what_is_not_given(self, shelf):
        await shelf.create("review", description="Long.", metadata={"x": 1})

        changed = await shelf.flows.change(ANNA, "review", {"metadata": {"y": 2}})

        assert (changed.flow.description, changed.flow.metadata) == ("Long.", {"y": 2})

    async def test_finds_the_ends_of_other_nodes(self, shelf):
        await shelf.create("review", step("a"))

        changed = await shelf.flows.change(ANNA, "review", {"nodes": [step("b"), step("c", "b")]})

        assert (changed.flow.entry_point, changed.flow.exit_points) == ("b", ["c"])

    async def test_keeps_ends_that_were_given(self, shelf):
        await shelf.create("review", step("a"), step("b", "a"), exit_points=["a"])
        nodes = [step("a"), step("b", "a"), step("c", "b")]

        changed = await shelf.flows.change(ANNA, "review", {"nodes": nodes})

        assert changed.flow.exit_points == ["a"]

    async def test_keeps_when_it_was_made(self, either):
        await either.create()
        made = await either.flows.get(ANNA, "review")

        changed = await either.flows.change(ANNA, "review", {})

        assert changed.created_at == made.created_at
        assert changed.updated_at > made.updated_at

    async def test_makes_a_version_of_each_of_many_at_once(self, either):
        await either.create("review", version="1.0.0")
        others = [either.flows, either.opened()]

        changed = await asyncio.gather(
            *(
                others[number % 2].change(ANNA, "review", {"metadata": {"number": number}})
                for number in range(CHANGES)
            )
        )

        versions = await either.flows.versions(ANNA, "review")
        expected = [f"1.0.{number}" for number in range(CHANGES, -1, -1)]
        assert [one.version for one in versions] == expected
        assert sorted((one.flow.version for one in changed), key=rank) == expected[-2::-1]
        for one in changed:
            kept = await either.flows.get(ANNA, "review", one.flow.version)
            assert kept.flow.metadata == one.flow.metadata

    async def test_loses_no_member_of_changes_at_once(self, either):
        await either.create()
        members = {"name": "Other", "description": "Long.", "metadata": {"x": 1}}

        await asyncio.gather(
            *(either.flows.change(ANNA, "review", {name: value}) for name, value in members.items())
        )

        kept = (await either.flows.get(ANNA, "review")).flow
        assert (kept.name, kept.description, kept.metadata) == ("Other", "Long.", {"x": 1})

    async def test_refuses_another_id(self, shelf):
        await shelf.create()

        with pytest.raises(IdMismatch):
            await shelf.flows.change(ANNA, "review", {"flow_id": "other"})

    async def test_takes_its_own_id(self, shelf):
        await shelf.create()

        changed = await shelf.flows.change(ANNA, "review", {"flow_id": "review"})

        assert changed.flow.version == "1.0.1"

    @pytest.mark.parametrize(
        "changes",
        [{"name": None}, {"colour": "red"}, {"nodes": []}, {"nodes": [step("a", "b")]}],
    )
    async def test_refuses_what_could_not_run_and_changes_nothing(self, shelf, changes):
        await shelf.create()

        with pytest.raises(FlowInvalid):
            await shelf.flows.change(ANNA, "review", changes)

        assert (await shelf.flows.get(ANNA, "review")).flow.version == "1.0.0"

    async def test_names_the_node_with_an_agent_that_is_not_there(self, shelf):
        await shelf.create()

        with pytest.raises(FlowInvalid) as caught:
            await shelf.flows.change(ANNA, "review", {"nodes": [step("b", agent_id="other")]})

        assert caught.value.extra["node"] == "b"

    async def test_other_members_change_when_an_agent_has_gone(self, shelf):
        await shelf.create("review", step("a", agent_id="helper"))
        shelf.agents.active.clear()

        changed = await shelf.flows.change(ANNA, "review", {"name": "Other"})

        assert changed.flow.name == "Other"

    async def test_the_installations_are_not_yours(self, shelf):
        shelf.files.put(flow("review"))

        with pytest.raises(NotYours):
            await shelf.flows.change(ANNA, "review", {"name": "Other"})

    @pytest.mark.parametrize("flow_id", ["missing", "a b", "a\x00", ""])
    async def test_what_is_not_there_is_not_found(self, either, flow_id):
        with pytest.raises(NoSuchFlow):
            await either.flows.change(ANNA, flow_id, {})

    async def test_another_users_is_not_found(self, shelf):
        await shelf.create()

        with pytest.raises(NoSuchFlow):
            await shelf.flows.change(BERT, "review", {"name": "Mine"})

    async def test_a_deleted_one_is_not_found(self, shelf):
        await shelf.create()
        await shelf.flows.delete(ANNA, "review")

        with pytest.raises(NoSuchFlow):
            await shelf.flows.change(ANNA, "review", {"name": "Other"})

    async def test_a_flow_may_have_so_many_versions(self, shelf, monkeypatch):
        monkeypatch.setattr(service, "VERSIONS_LIMIT", 2)
        await shelf.create()
        await shelf.flows.change(ANNA, "review", {})

        with pytest.raises(TooManyVersions):
            await shelf.flows.change(ANNA, "review", {})


class TestDelete:
    async def test_it_is_gone(self, either):
        await either.create()

        await either.flows.delete(ANNA, "review")

        with pytest.raises(NoSuchFlow):
            await either.flows.get(ANNA, "review")
        with pytest.raises(NoSuchFlow):
            await either.flows.get(ANNA, "review", "1.0.0")
        assert await either.flows.page(ANNA, limit=10, offset=0) == ([], 0)

    async def test_a_second_time_there_is_nothing(self, shelf):
        await shelf.create()
        await shelf.flows.delete(ANNA, "review")

        with pytest.raises(NoSuchFlow):
            await shelf.flows.delete(ANNA, "review")

    async def test_another_users_is_not_found(self, shelf):
        await shelf.create()

        with pytest.raises(NoSuchFlow):
            await shelf.flows.delete(BERT, "review")

    async def test_the_installations_are_not_yours(self, shelf):
        shelf.files.put(flow("review"))

        with pytest.raises(NotYours):
            await shelf.flows.delete(ANNA, "review")

    async def test_what_has_begun_goes_on(self, shelf):
        await shelf.create()
        plan = await shelf.flows.plan(ANNA, "review", None)

        await shelf.flows.delete(ANNA, "review")

        assert await shelf.opened().load(plan.ids) == plan


class TestGet:
    async def test_reads_a_version(self, shelf):
        await shelf.create("review", name="First")
        await shelf.flows.change(ANNA, "review", {"name": "Second"})

        first = await shelf.flows.get(ANNA, "review", "1.0.0")

        assert (first.flow.name, first.source) == ("First", "api")

    @pytest.mark.parametrize("version", ["1.0.1", "1.0", "latest", "", "1.0.0\x00"])
    async def test_a_version_that_is_not_there_is_not_found(self, either, version):
        await either.create()

        with pytest.raises(NoSuchFlow):
            await either.flows.get(ANNA, "review", version)

    async def test_another_users_is_not_found(self, shelf):
        await shelf.create()

        with pytest.raises(NoSuchFlow):
            await shelf.flows.get(BERT, "review")

    async def test_everybody_sees_the_installations(self, shelf):
        shelf.files.put(flow("review", name="A file"))

        found = await shelf.flows.get(BERT, "review")

        assert (found.flow.name, found.source, found.created_by) == ("A file", "file", None)

    async def test_reads_a_former_version_of_a_file(self, either):
        either.files.put(flow("review", name="First", version="1.0.0"))
        await either.flows.open()
        either.files.put(flow("review", name="Second", version="2.0.0"))

        first = await either.flows.get(ANNA, "review", "1.0.0")

        assert (first.flow.name, first.source) == ("First", "file")

    async def test_a_file_that_is_gone_is_not_found(self, shelf):
        shelf.files.put(flow("review"))
        await shelf.flows.open()
        shelf.files.drop("review")

        with pytest.raises(NoSuchFlow):
            await shelf.flows.get(ANNA, "review")

    async def test_a_file_that_came_later_leaves_users_theirs(self, shelf):
        await shelf.create("review", name="Anna's")
        shelf.files.put(flow("review", name="A file"))

        assert (await shelf.flows.get(ANNA, "review")).flow.name == "Anna's"
        assert (await shelf.flows.get(BERT, "review")).flow.name == "A file"


class TestPage:
    async def test_has_the_users_first_and_then_the_installations(self, either):
        either.files.put(flow("beta"), flow("alpha"))
        await either.create("zeta")
        await either.create("delta")
        await either.flows.create(BERT, flow("berts"))

        found, count = await either.flows.page(ANNA, limit=10, offset=0)

        assert [one.flow.flow_id for one in found] == ["delta", "zeta", "alpha", "beta"]
        assert count == 4

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
    async def test_pages_have_all_of_them_once(self, shelf, limit):
        shelf.files.put(flow("beta"), flow("alpha"), flow("zeta"))
        await shelf.create("gamma")
        await shelf.create("delta")

        pages = [
            await shelf.flows.page(ANNA, limit=limit, offset=offset)
            for offset in range(0, 6, limit)
        ]

        shown = [one.flow.flow_id for found, _ in pages for one in found]
        assert shown == ["delta", "gamma", "alpha", "beta", "zeta"]
        assert all(len(found) <= limit and count == 5 for found, count in pages)

    async def test_may_have_the_users_alone(self, shelf):
        shelf.files.put(flow("alpha"))
        await shelf.create("delta")

        found, count = await shelf.flows.page(ANNA, limit=10, offset=0, is_own=True)

        assert ([one.flow.flow_id for one in found], count) == (["delta"], 1)

    async def test_a_flow_that_hides_a_file_is_there_once(self, shelf):
        await shelf.create("alpha")
        shelf.files.put(flow("alpha"))

        found, count = await shelf.flows.page(ANNA, limit=10, offset=0)

        assert ([one.created_by for one in found], count) == ([ANNA], 1)
        assert await shelf.flows.tally(ANNA) == 1


class TestVersions:
    async def test_the_highest_is_first(self, either):
        await either.create("review", version="1.9")
        await either.flows.change(ANNA, "review", {})
        await either.flows.change(ANNA, "review", {"version": "2.0.0"})

        versions = await either.flows.versions(ANNA, "review")

        assert [one.version for one in versions] == ["2.0.0", "1.10", "1.9"]

    async def test_a_files_version_is_there_once(self, shelf):
        shelf.files.put(flow("review", name="First"))
        await shelf.flows.open()
        shelf.files.put(flow("review", name="Second"))
        await shelf.flows.open()

        assert [one.version for one in await shelf.flows.versions(ANNA, "review")] == ["1.0.0"]

    async def test_another_users_are_not_found(self, shelf):
        await shelf.create()

        with pytest.raises(NoSuchFlow):
            await shelf.flows.versions(BERT, "review")


class TestTally:
    async def test_counts_what_the_user_sees(self, either):
        either.files.put(flow("alpha"), flow("beta"))
        await either.create("delta")

        assert (await either.flows.tally(ANNA), await either.flows.tally(BERT)) == (3, 2)


class TestOpen:
    async def test_several_processes_may_write_the_same(self, either):
        either.files.put(flow("alpha"), flow("beta"))
        others = [either.opened() for _ in range(4)]

        await asyncio.gather(*(one.open() for one in others))

        plans = [await one.plan(ANNA, "alpha", None) for one in others]
        assert all(plan.ids == plans[0].ids for plan in plans)

    async def test_a_change_of_a_file_is_a_definition_of_its_own(self, either):
        either.files.put(flow("alpha", name="First"))
        first = await either.flows.plan(ANNA, "alpha", None)
        either.files.put(flow("alpha", name="Second"))

        second = await either.flows.plan(ANNA, "alpha", None)

        assert (first.flow.name, second.flow.name) == ("First", "Second")
        assert (await either.opened().load(first.ids)).flow.name == "First"


class TestPlan:
    async def test_is_a_flow_and_its_id(self, shelf):
        await shelf.create()

        plan = await shelf.flows.plan(ANNA, "review", None)

        assert plan.flow == (await shelf.flows.get(ANNA, "review")).flow
        assert (plan.inner, list(plan.ids)) == ({}, [""])

    async def test_is_of_the_version_that_is_wanted(self, shelf):
        await shelf.create("review", name="First")
        await shelf.flows.change(ANNA, "review", {"name": "Second"})

        assert (await shelf.flows.plan(ANNA, "review", "1.0.0")).flow.name == "First"
        assert (await shelf.flows.plan(ANNA, "review", None)).flow.name == "Second"

    @pytest.mark.parametrize("version", ["9", "x", "\x00"])
    async def test_a_version_that_is_not_there_is_not_found(self, either, version):
        await either.create()

        with pytest.raises(NoSuchFlow):
            await either.flows.plan(ANNA, "review", version)

    @pytest.mark.parametrize("flow_id", ["missing", "a/b", "\x00"])
    async def test_a_flow_that_is_not_there_is_not_found(self, shelf, flow_id):
        with pytest.raises(NoSuchFlow):
            await shelf.flows.plan(ANNA, flow_id, None)

    async def test_has_the_flows_in_it_by_the_path_of_their_node(self, either):
        await either.create("leaf")
        await either.create("middle", inner("b", "leaf"))
        await either.create("top", inner("x", "middle"), inner("y", "leaf"))

        plan = await either.flows.plan(ANNA, "top", None)

        assert {path: one.flow_id for path, one in plan.inner.items()} == {
            "x": "middle",
            "y": "leaf",
            "x/b": "leaf",
        }
        assert plan.ids.keys() == {"", "x", "y", "x/b"}
        assert await either.opened().load(plan.ids) == plan

    async def test_has_an_inner_flow_as_it_is_now(self, shelf):
        await shelf.create("leaf", name="First")
        await shelf.create("top", inner("x", "leaf"))
        await shelf.flows.plan(ANNA, "top", None)

        await shelf.opened().change(ANNA, "leaf", {"name": "Second"})

        assert (await shelf.flows.plan(ANNA, "top", None)).inner["x"].name == "Second"

    async def test_has_an_inner_flow_in_its_version(self, shelf):
        await shelf.create("leaf", name="First")
        await shelf.flows.change(ANNA, "leaf", {"name": "Second"})
        await shelf.create("top", inner("x", "leaf", "1.0.0"))

        assert (await shelf.flows.plan(ANNA, "top", None)).inner["x"].name == "First"

    async def test_names_the_node_with_a_version_that_is_not_there(self, shelf):
        await shelf.create("leaf")

        with pytest.raises(FlowInvalid) as caught:
            await shelf.create("top", inner("x", "leaf", "9.9"))

        assert caught.value.extra["node"] == "x"

    async def test_names_the_node_whose_flow_has_gone(self, shelf):
        await shelf.create("leaf")
        await shelf.create("middle", inner("b", "leaf"))
        await shelf.create("top", inner("x", "middle"))
        await shelf.flows.plan(ANNA, "top", None)

        await shelf.flows.delete(ANNA, "leaf")

        with pytest.raises(FlowInvalid) as caught:
            await shelf.flows.plan(ANNA, "top", None)
        assert caught.value.extra["node"] == "x/b"

    async def test_names_the_node_whose_agent_has_gone(self, shelf):
        await shelf.create("leaf", step("b", agent_id="helper"))
        await shelf.create("top", inner("x", "leaf"))
        await shelf.flows.plan(ANNA, "top", None)

        shelf.agents.active.clear()

        with pytest.raises(FlowInvalid) as caught:
            await shelf.flows.plan(ANNA, "top", None)
        assert caught.value.extra == {"node": "x/b", "field": "agent_id"}

    async def test_flows_do_not_go_round(self, shelf):
        await shelf.create("one")
        await shelf.create("two", inner("x", "one"))

        with pytest.raises(FlowInvalid) as caught:
            await shelf.flows.change(ANNA, "one", {"nodes": [inner("y", "two")]})

        assert caught.value.extra == {"node": "y/x", "cycle": ["one", "two"]}

    async def test_flows_that_came_to_go_round_do_not_run(self, shelf):
        shelf.files.put(flow("one", inner("x", "two")), flow("two", inner("y", "one")))

        with pytest.raises(FlowInvalid) as caught:
            await shelf.flows.plan(ANNA, "one", None)

        assert caught.value.extra["cycle"] == ["one", "two"]

    async def test_has_as_many_levels_as_there_may_be(self, shelf):
        await shelf.create("f0")
        for depth in range(1, DEPTH_LIMIT + 1):
            await shelf.create(f"f{depth}", inner("x", f"f{depth - 1}"))

        plan = await shelf.flows.plan(ANNA, f"f{DEPTH_LIMIT}", None)
        assert max(path.count("/") for path in plan.inner) == DEPTH_LIMIT - 1
        with pytest.raises(FlowInvalid):
            await shelf.create("deeper", inner("x", f"f{DEPTH_LIMIT}"))

    async def test_has_as_many_nodes_as_there_may_be(self, shelf):
        await shelf.create("leaf", *(step(f"n{number}") for number in range(124)))
        names = "abcd"

        await shelf.create("top", *(inner(name, "leaf") for name in names))

        assert NODES_LIMIT == 4 + 4 * 124
        with pytest.raises(FlowInvalid, match="nodes"):
            await shelf.create("more", step("z"), *(inner(name, "leaf") for name in names))

    async def test_an_installations_flow_has_the_installations_in_it(self, shelf):
        await shelf.create("leaf", name="Anna's")
        shelf.files.put(flow("leaf", name="A file"), flow("top", inner("x", "leaf")))

        assert (await shelf.flows.plan(ANNA, "top", None)).inner["x"].name == "A file"

    async def test_a_users_flow_may_have_the_installations_in_it(self, shelf):
        shelf.files.put(flow("leaf", name="First"))
        await shelf.create("top", inner("x", "leaf"))
        await shelf.flows.plan(ANNA, "top", None)

        shelf.files.put(flow("leaf", name="Second"))

        assert (await shelf.flows.plan(ANNA, "top", None)).inner["x"].name == "Second"

    async def test_looks_once_while_nothing_changes(self, shelf):
        await shelf.create("leaf")
        await shelf.create("top", inner("x", "leaf"), step("b", agent_id="helper"))
        first = await shelf.flows.plan(ANNA, "top", None)

        with statements(shelf.db) as asked:
            second = await shelf.flows.plan(ANNA, "top", None)

        assert second is first
        assert len(queries(asked)) == 1

    async def test_sees_what_another_process_has_written(self, either):
        await either.create("review", name="First")
        await either.flows.plan(ANNA, "review", None)

        await either.opened().change(ANNA, "review", {"name": "Second"})

        assert (await either.flows.plan(ANNA, "review", None)).flow.name == "Second"


class TestLoad:
    async def test_reads_each_definition_once(self, shelf):
        await shelf.create("leaf")
        await shelf.create("top", inner("x", "leaf"))
        ids = (await shelf.flows.plan(ANNA, "top", None)).ids
        other = shelf.opened()

        with statements(shelf.db) as asked:
            plans = [await other.load(ids) for _ in range(3)]

        assert plans[0] == plans[2]
        assert len(queries(asked)) == 1

    async def test_what_is_gone_is_not_found(self, shelf):
        with pytest.raises(NoSuchFlow):
            await shelf.flows.load({"": UUID(int=9)})
