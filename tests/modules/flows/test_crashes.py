"""A process dies anywhere in an execution; the next one ends it, and nothing is done twice."""

import pytest

from app.modules.flows.domain.checks import parse_flow
from app.modules.flows.domain.executions import FINAL
from tests.fakes.clock import FakeClock
from tests.modules.flows.processes import CALLER, Process, opened
from tests.modules.flows.registry import said
from tests.modules.runs import works
from tests.mortals import NEVER, Fate
from tests.waiting import until

# How often an agent that may be asked again was asked at most, when one process died.
TWICE = 2


def node(name, *after, agent="once", **more):
    return {"id": name, "depends_on": list(after), "agent_id": agent, **more}


INNER = {"flow_id": "inner", "name": "Inner", "nodes": [node("x"), node("y", "x", agent="often")]}
# Ten nodes, those of the inner flow counted: branches, a join, a choice, a flow as a node.
OUTER = {
    "flow_id": "outer",
    "name": "Outer",
    "nodes": [
        {"id": "in", "type": "input"},
        node("a", "in"),
        node("b", "in", agent="often"),
        node("join", "a", "b"),
        {
            "id": "which",
            "type": "conditional",
            "depends_on": ["join"],
            "conditions": [{"when": "'join' in input", "then": ["inner"]}, {"else": ["never"]}],
        },
        {"id": "inner", "depends_on": ["which"], "kind": "flow", "config": {"flow_id": "inner"}},
        node("never", "which"),
        {"id": "out", "type": "output", "depends_on": ["inner", "never"]},
    ],
}


async def furnish(db, clock) -> None:
    await works.people(db)
    async with opened(db, clock) as process:
        await process.agents.register(CALLER, said("once", endpoint="http://127.0.0.1:1"))
        often = said("often", endpoint="http://127.0.0.1:1", is_idempotent=True)
        await process.agents.register(CALLER, often)
        await process.flows.create(CALLER.user_id, parse_flow(INNER))
        await process.flows.create(CALLER.user_id, parse_flow(OUTER))


async def live(db, clock, dies_at: int) -> Process:
    """Run one execution in a process that dies at this step."""
    fate = Fate(dies_at)
    async with opened(db, clock, fate) as process:
        execution_id = await process.start("outer", x=1)

        async def is_over():
            return (await process.see(execution_id)).execution.status in FINAL

        await until(is_over)
    return process


async def newest(process: Process):
    found = await process.views.page(works.ANNA, "outer", None, 1, 0)
    return found[0] if found else None


def asked(*processes: Process):
    total = processes[0].outlet.done.copy()
    for process in processes[1:]:
        total += process.outlet.done
    return total


class TestDeath:
    @pytest.mark.parametrize("place", range(4))
    async def test_the_next_process_ends_what_was_begun(self, db, place):
        """Every step of the database and of every call, a part of them in each of four tests."""
        clock = FakeClock()
        await furnish(db, clock)
        whole = await live(db, clock, NEVER)
        promised = await self._ended(db, clock, whole)
        assert promised.status == "completed"
        stride = 4 if db.is_embedded else 12

        for dies_at in range(1 + place, steps_of(whole), stride):
            before = promised.id
            dead = await live(db, clock, dies_at)
            clock.advance(3600)
            async with opened(db, clock) as heir:
                left = await newest(heir)
                assert left is not None
                if left.id == before:
                    assert asked(dead) == {}, "an agent was asked for what is not written down"
                    continue
                ended = (await heir.ended(left.id)).execution
            check(ended, promised, asked(dead, heir), dies_at)
            promised = promised if ended.status != "completed" else ended

    async def _ended(self, db, clock, process):
        async with opened(db, clock) as heir:
            return await newest(heir)


def steps_of(process: Process) -> int:
    return process.fate.steps


def check(ended, promised, calls, dies_at) -> None:
    where = f"death at step {dies_at}"
    for (agent_id, node_id), count in calls.items():
        assert count <= (TWICE if agent_id == "often" else 1), (where, node_id, count)
    if ended.status == "completed":
        assert ended.output == promised.output, where
        assert {"a", "b", "join", "inner/x", "inner/y"} == {path for _, path in calls}, where
    else:
        assert (ended.status, ended.error_code) == ("failed", "process_gone"), where
        assert any(agent_id == "once" for agent_id, _ in calls) or not calls, where
