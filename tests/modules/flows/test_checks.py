"""Definitions: what could run, and what is wrong with the others."""

from contextlib import nullcontext
from datetime import date
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.modules.flows.domain import checks
from app.modules.flows.domain.checks import (
    agent_config,
    check_flow,
    parse_flow,
    settings_of,
    successors_of,
    task_of,
)
from app.modules.flows.domain.definitions import (
    Branch,
    Caching,
    CodeTask,
    Flow,
    FlowInvalid,
    FlowTask,
    LlmTask,
    Node,
    Retry,
)


def document(*nodes, **members) -> dict:
    return {"flow_id": "review", "name": "Review", "nodes": list(nodes), **members}


def step(node_id: str = "a", *depends_on: str, **members) -> dict:
    return {"id": node_id, "depends_on": list(depends_on), **members}


def choice(*conditions: dict) -> dict:
    """A conditional with two successors, and one node that does not depend on it."""
    return document(
        step("a", type="conditional", conditions=list(conditions)),
        step("b", "a"),
        step("c", "a"),
        step("d"),
    )


def refused(given: object) -> FlowInvalid:
    with pytest.raises(FlowInvalid) as caught:
        parse_flow(given)
    return caught.value


@st.composite
def graphs(draw) -> Flow:
    """Up to eight nodes in any order, some of which wait for those of lower numbers; in every
    other graph, for any others.
    """
    count = draw(st.integers(1, 8))
    is_wild = draw(st.booleans())
    nodes = []
    for number in range(count):
        chosen = draw(st.integers(0, 2**count - 1))
        others = [other for other in range(count) if is_wild or other < number]
        names = [f"n{other}" for other in others if other != number and chosen >> other & 1]
        nodes.append(Node(id=f"n{number}", depends_on=names))
    return Flow(flow_id="graph", name="Graph", nodes=draw(st.permutations(nodes)))


def reachable(flow: Flow, start: str) -> set[str]:
    """Whom a node waits for, directly or not."""
    by_id = {node.id: node for node in flow.nodes}
    found: set[str] = set()
    waiting = list(by_id[start].depends_on)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += by_id[name].depends_on
    return found


def is_cyclic(flow: Flow) -> bool:
    return any(node.id in reachable(flow, node.id) for node in flow.nodes)


class TestCheckFlow:
    @given(graphs())
    def test_accepts_exactly_graphs_without_cycles(self, flow):
        with pytest.raises(FlowInvalid) if is_cyclic(flow) else nullcontext():
            check_flow(flow)

    @given(graphs())
    def test_names_a_cycle_that_is_there_in_its_order(self, flow):
        assume(is_cyclic(flow))

        with pytest.raises(FlowInvalid) as caught:
            check_flow(flow)

        cycle = caught.value.extra["cycle"]
        whole = [*cycle, cycle[0]]
        waits_for = {node.id: node.depends_on for node in flow.nodes}
        assert all(other in waits_for[one] for one, other in pairwise(whole))
        assert len(set(cycle)) == len(cycle)
        assert caught.value.extra["node"] == cycle[0]
        assert " -> ".join(whole) in str(caught.value)

    @given(graphs())
    def test_finds_the_ends_of_what_it_accepts(self, flow):
        assume(not is_cyclic(flow))

        whole = check_flow(flow)

        first = [node.id for node in flow.nodes if not node.depends_on]
        waited_for = {name for node in flow.nodes for name in node.depends_on}
        assert whole.entry_point == (first[0] if len(first) == 1 else None)
        assert whole.exit_points == [n.id for n in flow.nodes if n.id not in waited_for]

    @given(graphs())
    def test_changes_nothing_the_second_time(self, flow):
        assume(not is_cyclic(flow))

        whole = check_flow(flow)

        assert check_flow(whole) == whole


class TestGraph:
    def test_takes_as_many_nodes_as_there_may_be_in_one_row(self):
        names = [f"n{number}" for number in range(200)]
        nodes = [step("n0"), *(step(b, a) for a, b in pairwise(names))]

        assert parse_flow(document(*nodes)).exit_points == ["n199"]

    def test_refuses_one_more(self):
        assert "nodes" in str(refused(document(*(step(f"n{number}") for number in range(201)))))

    def test_refuses_no_nodes(self):
        assert refused(document()).extra["field"] == "nodes"

    def test_refuses_a_cycle_of_two(self):
        error = refused(document(step("a", "b"), step("b", "a")))

        assert error.extra == {"node": "a", "field": "depends_on", "cycle": ["a", "b"]}

    def test_refuses_a_node_that_waits_for_itself(self):
        error = refused(document(step("a", "a")))

        assert (error.extra["node"], error.extra["cycle"]) == ("a", ["a"])

    def test_refuses_a_dependency_that_is_not_there(self):
        error = refused(document(step("a"), step("b", "missing")))

        assert (error.extra["node"], error.extra["field"]) == ("b", "depends_on")
        assert "'missing'" in str(error)

    def test_refuses_a_dependency_that_is_named_twice(self):
        assert refused(document(step("a"), step("b", "a", "a"))).extra["node"] == "b"

    def test_refuses_two_nodes_of_one_id(self):
        assert refused(document(step("a"), step("a"))).extra == {"node": "a", "field": "id"}

    def test_refuses_more_dependencies_than_a_node_may_have(self):
        names = [f"n{number}" for number in range(51)]
        nodes = [step(name) for name in names]

        assert refused(document(*nodes, step("z", *names))).extra["node"] == "z"
        assert parse_flow(document(*nodes, step("z", *names[:50])))

    def test_keeps_ends_that_are_given(self):
        flow = parse_flow(
            document(step("a"), step("b", "a"), entry_point="b", exit_points=["a", "b", "a"])
        )

        assert (flow.entry_point, flow.exit_points) == ("b", ["a", "b"])

    @pytest.mark.parametrize("ends", [{"entry_point": "z"}, {"exit_points": ["a", "z"]}])
    def test_refuses_ends_that_are_no_nodes(self, ends):
        error = refused(document(step("a"), **ends))

        assert error.extra == {"field": next(iter(ends))}
        assert "'z'" in str(error)

    def test_tells_who_waits_for_whom(self):
        flow = parse_flow(document(step("a"), step("b", "a"), step("c", "a", "b")))

        assert successors_of(flow) == {"a": ["b", "c"], "b": ["c"], "c": []}


class TestParseFlow:
    def test_reads_what_is_optional(self):
        flow = parse_flow(document(step("a")))

        assert (flow.version, flow.description, flow.metadata) == ("1.0.0", "", {})

    @pytest.mark.parametrize("given", [None, 3, "text", [], {}, {"nodes": 1}])
    def test_refuses_what_is_no_document(self, given):
        assert refused(given)

    def test_names_a_member_that_is_unknown(self):
        assert "`colour`" in str(refused(document(step("a"), colour="red")))

    def test_names_the_node_with_an_unknown_member(self):
        error = refused(document(step("a"), step("b", dependson=["a"])))

        assert error.extra["node"] == "b"
        assert "`dependson`" in str(error)

    def test_names_the_node_and_the_field_of_a_wrong_type(self):
        error = refused(document(step("a"), step("b", type="router")))

        assert (error.extra["node"], error.extra["field"]) == ("b", "type")

    def test_names_the_field_with_a_name_that_is_no_text(self):
        error = refused(document(step("a", config={True: "x"})))

        assert error.extra == {"node": "a", "field": "config"}

    def test_names_the_place_of_a_node_without_an_id(self):
        assert refused(document(step("a"), {"type": "input"})).extra["node"] == "nodes[1]"

    @pytest.mark.parametrize(
        "members",
        [
            {"flow_id": "a b"},
            {"flow_id": "a\n"},
            {"flow_id": "x" * 101},
            {"flow_id": "execute"},
            {"flow_id": "my-flows"},
            {"name": ""},
            {"version": 1.0},
            {"version": "1.0.0.0"},
            {"version": "latest"},
        ],
    )
    def test_names_a_field_with_a_value_that_it_cannot_have(self, members):
        error = refused(document(step("a"), **members))

        assert error.extra["field"] == next(iter(members))

    @pytest.mark.parametrize("node_id", ["", "a b", "a/b", "ä", "a\n"])
    def test_refuses_the_id_of_a_node(self, node_id):
        assert refused(document(step(node_id))).extra["field"] == "id"

    @pytest.mark.parametrize(
        "value",
        [date(2026, 1, 1), b"bytes", float("nan"), float("inf"), {1: "x"}, {"a": [{2: 3}]}, 2**64],
    )
    def test_refuses_what_json_has_not(self, value):
        agent = step("a", agent_id="x", config={"value": value})

        assert refused(document(agent)).extra["node"] == "a"
        assert refused(document(step("a"), metadata={"value": value})).extra["field"] == "metadata"

    def test_refuses_half_a_character(self):
        assert "JSON" in str(refused(document(step("a"), description="\ud800")))

    def test_refuses_what_is_nested_too_deep(self):
        deep: object = []
        for _ in range(checks.DEPTH_LIMIT):
            deep = [deep]

        assert "deeper" in str(refused(document(step("a"), metadata={"value": deep})))

    def test_survives_what_is_nested_endlessly(self):
        endless: dict = {}
        endless["again"] = endless

        assert refused(document(step("a"), metadata=endless))

    def test_refuses_more_than_may_be_kept(self):
        text = "x" * checks.DOCUMENT_LIMIT_BYTES

        assert "256 KiB" in str(refused(document(step("a"), metadata={"text": text})))


class TestKinds:
    def test_an_agent_id_makes_it_an_agents(self):
        [node] = parse_flow(document(step("a", agent_id="helper"))).nodes

        assert node.work == "agent"

    def test_an_agents_needs_one(self):
        assert refused(document(step("a", kind="agent"))).extra["field"] == "agent_id"

    @pytest.mark.parametrize("kind", ["llm", "code", "flow"])
    def test_no_other_kind_has_one(self, kind):
        assert refused(document(step("a", kind=kind, agent_id="x"))).extra["field"] == "agent_id"

    def test_refuses_an_agent_that_cannot_be_called_so(self):
        assert refused(document(step("a", agent_id="../x"))).extra["field"] == "agent_id"

    @pytest.mark.parametrize("kind", ["input", "output", "processor"])
    def test_a_node_without_a_kind_passes_on(self, kind):
        [node] = parse_flow(document(step("a", type=kind))).nodes

        assert (node.work, task_of(node)) == (None, None)

    def test_a_node_that_passes_on_is_told_nothing(self):
        error = refused(document(step("a", config={"prompt": "x"})))

        assert error.extra["field"] == "config.prompt"

    def test_a_flow_is_no_node_of_itself(self):
        error = refused(document(step("a", kind="flow", config={"flow_id": "review"})))

        assert (error.extra["node"], error.extra["cycle"]) == ("a", ["review"])


class TestSettingsOf:
    def test_has_defaults(self):
        settings = settings_of(Node(id="a"))

        assert (settings.timeout, settings.retry, settings.cache) == (30.0, Retry(), None)
        assert settings.idempotent is None

    def test_reads_what_every_kind_has(self):
        config = {
            "timeout": 5,
            "retry": {"attempts": 3, "backoff_s": 0.5, "factor": 1},
            "cache": {"ttl_s": 60},
            "idempotent": True,
            "temperature": 1,
        }

        settings = settings_of(Node(id="a", agent_id="x", config=config))

        assert (settings.timeout, settings.cache) == (5.0, Caching(60))
        assert settings.retry == Retry(3, 0.5, 1.0)
        assert settings.idempotent is True

    @pytest.mark.parametrize(
        "config",
        [
            {"timeout": 0},
            {"timeout": 3601},
            {"timeout": "30"},
            {"timeout": True},
            {"retry": {"attempts": 0}},
            {"retry": {"attempts": 11}},
            {"retry": {"backoff_s": 61}},
            {"retry": {"times": 2}},
            {"retry": 3},
            {"cache": {}},
            {"cache": {"ttl_s": 0}},
            {"cache": True},
            {"idempotent": "yes"},
        ],
    )
    def test_names_what_cannot_be(self, config):
        error = refused(document(step("a", agent_id="x", config=config)))

        assert error.extra["node"] == "a"
        assert error.extra["field"].startswith(f"config.{next(iter(config))}")


class TestTaskOf:
    def test_reads_a_prompt(self):
        node = Node(id="a", kind="llm", config={"prompt": "Say {what}", "model": "x", "timeout": 9})

        assert task_of(node) == LlmTask("Say {what}", "x")

    def test_reads_a_script(self):
        config = {"code": "1", "project": "p", "settings": {"a": "b"}, "memory": {"c": [1]}}

        assert task_of(Node(id="a", kind="code", config=config)) == CodeTask(
            "1", "p", {"a": "b"}, {"c": [1]}
        )

    def test_reads_a_flow(self):
        config = {"flow_id": "other", "version": "1.2"}

        assert task_of(Node(id="a", kind="flow", config=config)) == FlowTask("other", "1.2")

    @pytest.mark.parametrize(
        ("kind", "config", "field"),
        [
            ("llm", {}, "config"),
            ("llm", {"prompt": 1}, "config.prompt"),
            ("llm", {"prompt": "x", "temperature": 1}, "config.temperature"),
            ("llm", {"prompt": "{"}, "config.prompt"),
            ("llm", {"prompt": "x", "system_prompt": "{a b}"}, "config.system_prompt"),
            ("code", {"code": "1", "memory": []}, "config.memory"),
            ("code", {"code": "1", "settings": {"a": 1}}, "config.settings[...]"),
            ("flow", {"flow_id": "a b"}, "config.flow_id"),
            ("flow", {"flow_id": "x", "prompt": "y"}, "config.prompt"),
        ],
    )
    def test_names_what_cannot_be(self, kind, config, field):
        error = refused(document(step("a", kind=kind, config=config)))

        assert error.extra == {"node": "a", "field": field}


class TestAgentConfig:
    def test_is_what_is_not_the_houses(self):
        config = {"timeout": 5, "retry": {}, "cache": None, "idempotent": True, "style": {"x": 1}}

        assert agent_config(Node(id="a", agent_id="x", config=config)) == {"style": {"x": 1}}


class TestConditions:
    def test_reads_branches_and_the_rest(self):
        flow = parse_flow(choice({"when": "input.x > 1", "then": ["b"]}, {"else": ["c"]}))

        assert flow.nodes[0].conditions == [
            Branch(when="input.x > 1", then=["b"]),
            Branch(otherwise=["c"]),
        ]

    def test_may_go_nowhere(self):
        assert parse_flow(choice({"when": "input.x > 1", "then": []}))

    @pytest.mark.parametrize(
        "conditions",
        [
            [],
            [{}],
            [{"then": ["b"]}],
            [{"else": []}],
            [{"when": "true", "then": ["b"], "else": ["c"]}],
            [{"else": ["b"]}, {"when": "true", "then": ["c"]}],
            [{"else": ["b"]}, {"else": ["c"]}],
            [{"when": "true", "then": ["d"]}],
            [{"when": "true", "then": ["a"]}],
            [{"when": "true", "then": ["b"]}, {"else": ["missing"]}],
            [{"when": "input.", "then": ["b"]}],
            [{"when": "inputs.x == 1", "then": ["b"]}],
            [{"when": True, "then": ["b"]}],
            [{"if": "true", "then": ["b"]}],
            [{"when": "true", "then": ["b"]}] * 51,
        ],
    )
    def test_names_the_node_whose_branches_lead_nowhere(self, conditions):
        error = refused(choice(*conditions))

        assert error.extra["node"] == "a"
        assert error.extra["field"].startswith("conditions")

    def test_a_conditional_has_some(self):
        error = refused(document(step("a", type="conditional")))

        assert error.extra == {"node": "a", "field": "conditions"}

    def test_nobody_else_has_any(self):
        error = refused(document(step("a", conditions=[{"else": ["b"]}]), step("b", "a")))

        assert error.extra == {"node": "a", "field": "conditions"}
