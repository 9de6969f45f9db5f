"""Which node is next, what it is given, and which ones are skipped."""

import msgspec
import pytest

from app.modules.flows.domain.definitions import Flow, Plan
from app.modules.flows.domain.graph import Progress, inputs_of, merged


def flow(*nodes, exits=(), flow_id="f"):
    document = {"flow_id": flow_id, "name": "F", "nodes": list(nodes), "exit_points": list(exits)}
    return msgspec.convert(document, Flow)


def node(name, *after, **more):
    return {"id": name, "depends_on": list(after), **more}


def choice(name, *after, conditions):
    return node(name, *after, type="conditional", conditions=conditions)


def progress(*nodes, given=None, exits=()):
    return Progress(flow(*nodes, exits=exits), given or {}, {"tier": "gold"})


def names(nodes):
    return [one.id for one in nodes]


class TestMerged:
    def test_later_dependencies_lie_over_earlier_ones_and_the_input(self):
        last = flow(node("a"), node("b"), node("c", "a", "b")).nodes[2]

        found = merged({"x": 0, "y": 0, "z": 0}, last, {"b": {"x": 2}, "a": {"x": 1, "y": 1}})

        assert found == {"x": 2, "y": 1, "z": 0}

    def test_an_output_that_is_no_object_lies_under_its_nodes_id(self):
        last = flow(node("a"), node("b", "a")).nodes[1]

        assert merged({}, last, {"a": [1, 2]}) == {"a": [1, 2]}

    def test_is_not_deep(self):
        last = flow(node("a"), node("b", "a")).nodes[1]

        assert merged({"deep": {"x": 1}}, last, {"a": {"deep": {"y": 2}}}) == {"deep": {"y": 2}}

    def test_leaves_the_input_as_it_is(self):
        last, given = flow(node("a"), node("b", "a")).nodes[1], {"x": 1}

        merged(given, last, {"a": {"x": 2}})

        assert given == {"x": 1}


class TestTake:
    def test_begins_with_every_node_that_waits_for_nothing(self):
        ready, skipped = progress(node("a"), node("b"), node("c", "a")).take()

        assert (names(ready), skipped) == (["a", "b"], [])

    def test_tells_each_node_once(self):
        one = progress(node("a"))

        one.take()

        assert one.take() == ([], [])

    def test_waits_for_all_dependencies(self):
        one = progress(node("a"), node("b"), node("c", "a", "b"))
        first, second = one.take()[0]

        one.settle(first, {})
        early = names(one.take()[0])
        one.settle(second, {})

        assert (early, names(one.take()[0])) == ([], ["c"])

    def test_goes_on_beside_a_node_that_is_slow(self):
        one = progress(node("a"), node("slow"), node("b", "a"))
        first = one.take()[0][0]

        one.settle(first, {})

        assert names(one.take()[0]) == ["b"]


class TestConditions:
    HIGH_OR_LOW = ({"when": "input.score > 5", "then": ["high"]}, {"else": ["low"]})

    def deciding(self, *more, conditions=HIGH_OR_LOW, score=0):
        nodes = (choice("which", conditions=list(conditions)), node("high", "which"))
        one = progress(*nodes, node("low", "which"), *more, exits=["high", "low"])
        [which] = one.take()[0]
        one.settle(which, {"score": score})
        return one

    @pytest.mark.parametrize(("score", "taken", "left"), [(6, "high", "low"), (5, "low", "high")])
    def test_one_branch_is_taken_and_the_other_is_skipped(self, score, taken, left):
        ready, skipped = self.deciding(score=score).take()

        assert (names(ready), names(skipped)) == ([taken], [left])

    def test_what_depends_on_skipped_nodes_alone_is_skipped(self):
        one = self.deciding(node("after", "low"), node("last", "after"), score=9)

        assert names(one.take()[1]) == ["low", "after", "last"]

    def test_what_depends_on_a_live_node_too_is_done_with_what_there_is(self):
        one = self.deciding(node("join", "high", "low"), score=9)
        [high] = one.take()[0]

        one.settle(high, {"from": "high"})
        [join] = one.take()[0]

        assert one.input_of(join) == {"from": "high"}

    def test_the_first_branch_that_holds_is_taken(self):
        both = ({"when": "True", "then": ["high"]}, {"when": "True", "then": ["low"]})

        assert names(self.deciding(conditions=both).take()[0]) == ["high"]

    def test_without_a_branch_that_holds_all_that_are_named_are_skipped(self):
        none = ({"when": "False", "then": ["high", "low"]},)

        ready, skipped = self.deciding(conditions=none).take()

        assert (ready, names(skipped)) == ([], ["high", "low"])

    def test_a_successor_that_no_branch_names_always_goes_on(self):
        one = self.deciding(node("log", "which"), score=9)

        assert names(one.take()[0]) == ["high", "log"]

    def test_a_node_that_was_not_chosen_is_skipped_though_another_dependency_lives(self):
        conditions = list(self.HIGH_OR_LOW)
        nodes = (choice("which", conditions=conditions), node("other"), node("high", "which"))
        one = progress(*nodes, node("low", "which", "other"))
        which, other = one.take()[0]

        one.settle(which, {"score": 9})
        one.settle(other, {})

        assert names(one.take()[1]) == ["low"]

    def test_sees_the_metadata_and_the_outputs_of_its_dependencies(self):
        says = "metadata.tier == 'gold' and outputs.first.score == 7"
        conditions = [{"when": says, "then": ["high"]}]
        nodes = (node("first"), choice("which", "first", conditions=conditions))
        one = progress(*nodes, node("high", "which"))
        [first] = one.take()[0]
        one.settle(first, {"score": 7})
        [which] = one.take()[0]

        one.settle(which, {})

        assert names(one.take()[0]) == ["high"]


class TestResult:
    def test_is_what_the_exits_gave_by_node(self):
        one = progress(node("a"), node("b"), exits=["a", "b"])
        for ready in one.take()[0]:
            one.settle(ready, {"from": ready.id})

        assert one.result() == {"a": {"from": "a"}, "b": {"from": "b"}}

    def test_leaves_out_an_exit_that_was_skipped(self):
        conditions = [{"when": "False", "then": ["b"]}]
        one = progress(choice("a", conditions=conditions), node("b", "a"), exits=["a", "b"])
        [first] = one.take()[0]
        one.settle(first, {"x": 1})
        one.take()

        assert one.result() == {"a": {"x": 1}}


class TestRecall:
    def test_goes_on_where_it_was(self):
        nodes = (node("a"), node("b", "a"), node("c", "b"))
        one = progress(*nodes)

        one.recall(flow(*nodes).nodes[0], {"x": 1})
        one.resume()
        [second] = one.take()[0]

        assert (second.id, one.input_of(second)) == ("b", {"x": 1})

    def test_a_conditional_chooses_as_before(self):
        conditions = [{"when": "input.x == 1", "then": ["b"]}, {"else": ["c"]}]
        nodes = (choice("a", conditions=conditions), node("b", "a"), node("c", "a"))
        one = progress(*nodes)

        one.recall(flow(*nodes).nodes[0], {"x": 1})
        one.resume()
        ready, skipped = one.take()

        assert (names(ready), names(skipped)) == (["b"], ["c"])

    def test_what_was_skipped_is_not_told_again(self):
        nodes = (node("a"), node("b", "a"))
        one = progress(*nodes)

        one.skip(flow(*nodes).nodes[0])

        assert names(one.take()[1]) == ["b"]


class TestInputsOf:
    def test_a_node_of_an_inner_flow_is_given_what_its_flow_is_given(self):
        outer = flow(node("a"), node("in", "a", kind="flow", config={"flow_id": "g"}))
        inner = flow(node("x"), node("y", "x"), flow_id="g")
        plan = Plan(outer, {"in": inner}, {})

        told = inputs_of(plan, {"start": 1}, {"a": {"mid": 2}, "in/x": {"end": 3}})

        assert told["in/x"].input == {"start": 1, "mid": 2}
        assert told["in/y"].input == {"start": 1, "mid": 2, "end": 3}
        assert set(told) == {"a", "in", "in/x", "in/y"}
