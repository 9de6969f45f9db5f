"""Which node is next, and what it is given."""

from collections.abc import Mapping
from typing import Any

from app.modules.flows.domain.definitions import Flow, Node, Plan
from app.modules.flows.domain.expressions import compile_expression
from app.modules.flows.domain.views import Told


def merged(flow_input: Mapping[str, Any], node: Node, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """A node's input: the execution's, and over it each dependency's output, in their order.

    An output that is no object is found under its node's id. The outputs of nodes that were skipped
    are not there.
    """
    given = dict(flow_input)
    for name in node.depends_on:
        if name in outputs:
            output = outputs[name]
            given.update(output if isinstance(output, dict) else {name: output})
    return given


class Progress:
    """One flow on its way. Pure: whoever holds it does the nodes, and says what they gave."""

    def __init__(
        self, flow: Flow, flow_input: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> None:
        self._flow = flow
        self._input = flow_input
        self._metadata = metadata
        self._waiting = {node.id: node for node in flow.nodes}
        self._skipped: set[str] = set()
        # Successors that a conditional did not choose.
        self._barred: set[str] = set()
        self.outputs: dict[str, Any] = {}

    def take(self) -> tuple[list[Node], list[Node]]:
        """The nodes to be done now, and those that are skipped; each is told once."""
        ready: list[Node] = []
        skipped: list[Node] = []
        is_moving = True
        while is_moving:
            found = [node for node in self._waiting.values() if self._is_settled(node)]
            for node in found:
                del self._waiting[node.id]
                if self._is_skipped(node):
                    self._skipped.add(node.id)
                    skipped.append(node)
                else:
                    ready.append(node)
            is_moving = any(node.id in self._skipped for node in found)
        return ready, skipped

    def resume(self) -> None:
        """Choose again what the conditionals had chosen that were recalled."""
        for node in self._flow.nodes:
            if node.conditions is not None and node.id in self.outputs:
                self._barred |= self._refused(node, self.outputs[node.id])

    def input_of(self, node: Node) -> dict[str, Any]:
        return merged(self._input, node, self.outputs)

    def settle(self, node: Node, output: Any) -> None:
        """A node has given this; ``ExpressionFailed`` when a conditional cannot choose."""
        if node.conditions is not None:
            self._barred |= self._refused(node, output)
        self.outputs[node.id] = output

    def recall(self, node: Node, output: Any) -> None:
        """It has given this before this process began."""
        self._waiting.pop(node.id, None)
        self.outputs[node.id] = output

    def skip(self, node: Node) -> None:
        """It was skipped before this process began."""
        self._waiting.pop(node.id, None)
        self._skipped.add(node.id)

    def result(self) -> dict[str, Any]:
        """What the exits have given, by node."""
        return {name: self.outputs[name] for name in self._flow.exit_points if name in self.outputs}

    def _is_settled(self, node: Node) -> bool:
        return all(name in self.outputs or name in self._skipped for name in node.depends_on)

    def _is_skipped(self, node: Node) -> bool:
        if node.id in self._barred:
            return True
        return bool(node.depends_on) and all(name in self._skipped for name in node.depends_on)

    def _refused(self, node: Node, output: Any) -> set[str]:
        """The successors that its branches name, and the one that is taken does not."""
        branches = node.conditions or []
        named = {name for branch in branches for name in (*branch.then, *branch.otherwise)}
        names = {
            "input": output if isinstance(output, dict) else {node.id: output},
            "outputs": {n: self.outputs[n] for n in node.depends_on if n in self.outputs},
            "metadata": self._metadata,
        }
        for branch in branches:
            if branch.when is None:
                return named - set(branch.otherwise)
            if compile_expression(branch.when).holds(names):
                return named - set(branch.then)
        return named


def inputs_of(
    plan: Plan, flow_input: Mapping[str, Any], outputs: Mapping[str, Any]
) -> dict[str, Told]:
    """Every node and what it was given, by path. ``outputs`` is what they gave so far, by path."""
    found: dict[str, Told] = {}
    waiting: list[tuple[str, Flow, Mapping[str, Any]]] = [("", plan.flow, flow_input)]
    while waiting:
        prefix, flow, given = waiting.pop()
        paths = {node.id: prefix + node.id for node in flow.nodes}
        gave = {name: outputs[path] for name, path in paths.items() if path in outputs}
        for node in flow.nodes:
            path = paths[node.id]
            found[path] = Told(node, merged(given, node, gave))
            if node.work == "flow":
                waiting.append((f"{path}/", plan.inner[path], found[path].input))
    return found
