"""Whether a definition is a flow that could run."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from app.kernel.errors import Invalid
from app.modules.flows.domain.definitions import (
    ID,
    Branch,
    CodeTask,
    Flow,
    FlowInvalid,
    FlowTask,
    LlmTask,
    Node,
    NodeSettings,
)
from app.modules.flows.domain.expressions import compile_expression
from app.modules.flows.domain.templates import names_of
from app.modules.flows.domain.versions import encode

DOCUMENT_LIMIT_BYTES: Final = 256 * 1024
DEPENDENCIES_LIMIT: Final = 50
BRANCHES_LIMIT: Final = 50
DEPTH_LIMIT: Final = 64
# What every reader of JSON takes for a whole number.
INTEGERS: Final = (-(2**63), 2**64 - 1)
SHOWN_CHARS: Final = 100

# Paths below /flows that are no flow's.
RESERVED: Final = frozenset(("execute", "my-flows"))
SETTINGS: Final = frozenset(NodeSettings.__struct_fields__)
NO_SETTINGS: Final = NodeSettings()
TASKS: Final[Mapping[str, type[LlmTask] | type[CodeTask] | type[FlowTask]]] = {
    "llm": LlmTask,
    "code": CodeTask,
    "flow": FlowTask,
}

_ID: Final = re.compile(ID)
_AT: Final = re.compile(
    r"(?P<why>.*) - at (?P<key>`key` in )?`\$(?:\.nodes\[(?P<node>\d+)\])?\.?(?P<field>.*)`", re.S
)

Task: TypeAlias = LlmTask | CodeTask | FlowTask
T = TypeVar("T")


def parse_flow(document: object) -> Flow:
    """Read a flow from what YAML or JSON said, as ``check_flow`` does. ``FlowInvalid``."""
    try:
        return check_flow(msgspec.convert(document, Flow))
    except msgspec.ValidationError as error:
        raise _misread(document, str(error)) from None
    except RecursionError:
        raise FlowInvalid("The document is nested too deep.") from None


def check_flow(flow: Flow) -> Flow:
    """Return the flow with its entry and exits, or say why it could not run: ``FlowInvalid`` names
    the ``node`` and the ``field``, and the nodes of a ``cycle``.
    """
    if not is_id(flow.flow_id) or flow.flow_id in RESERVED:
        text = f"flow_id: {flow.flow_id[:SHOWN_CHARS]!r} cannot be a flow's; choose another one."
        raise FlowInvalid(text, field="flow_id")
    nodes = _by_id(flow)
    for node in flow.nodes:
        _check_edges(node, nodes)
    _check_acyclic(nodes)
    successors = successors_of(flow)
    for node in flow.nodes:
        _check_json("config", node.config, node)
        _check_kind(node)
        _check_work(flow, node)
        _check_conditions(node, successors[node.id])
    _check_json("metadata", flow.metadata)
    whole = msgspec.structs.replace(
        flow,
        entry_point=flow.entry_point or entry_of(flow),
        exit_points=list(dict.fromkeys(flow.exit_points)) or exits_of(flow),
    )
    _check_ends(whole, nodes)
    _check_size(whole)
    return whole


def is_id(text: str) -> bool:
    """Whether a flow, a node or an agent could be called so."""
    return _ID.fullmatch(text) is not None


def settings_of(node: Node) -> NodeSettings:
    """What every kind of node has in its ``config``. ``FlowInvalid``."""
    given = {name: value for name, value in node.config.items() if name in SETTINGS}
    return _converted(node, given, NodeSettings) if given else NO_SETTINGS


def task_of(node: Node) -> Task | None:
    """What a node of a built-in kind does; ``None`` for an agent's and for one that passes on.
    ``FlowInvalid``.
    """
    kind = TASKS.get(node.work or "")
    if kind is None:
        return None
    return _converted(node, agent_config(node), kind)


def agent_config(node: Node) -> dict[str, Any]:
    """What is left of a node's ``config`` for whoever does it."""
    return {name: value for name, value in node.config.items() if name not in SETTINGS}


def successors_of(flow: Flow) -> dict[str, list[str]]:
    """Who waits for each node."""
    found: dict[str, list[str]] = {node.id: [] for node in flow.nodes}
    for node in flow.nodes:
        for name in node.depends_on:
            found[name].append(node.id)
    return found


def entry_of(flow: Flow) -> str | None:
    """The only node that waits for nobody; ``None`` where there are several."""
    first = [node.id for node in flow.nodes if not node.depends_on]
    return first[0] if len(first) == 1 else None


def exits_of(flow: Flow) -> list[str]:
    """The nodes that nobody waits for."""
    return [name for name, waiting in successors_of(flow).items() if not waiting]


def _by_id(flow: Flow) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    for node in flow.nodes:
        if not is_id(node.id):
            raise _refusal(node, "id", "has more than letters, digits, _ and -")
        if node.id in nodes:
            raise _refusal(node, "id", "is another node's too")
        nodes[node.id] = node
    return nodes


def _check_edges(node: Node, nodes: Mapping[str, Node]) -> None:
    if len(node.depends_on) > DEPENDENCIES_LIMIT:
        raise _refusal(node, "depends_on", f"has more than {DEPENDENCIES_LIMIT} nodes")
    if len(set(node.depends_on)) < len(node.depends_on):
        raise _refusal(node, "depends_on", "names a node twice")
    for name in node.depends_on:
        if name == node.id:
            raise _refusal(node, "depends_on", "names the node itself", cycle=[name])
        if name not in nodes:
            raise _refusal(node, "depends_on", f"has {name[:SHOWN_CHARS]!r}, which is no node")


def _check_acyclic(nodes: Mapping[str, Node]) -> None:
    left = dict(nodes)
    while free := [name for name, node in left.items() if not left.keys() & node.depends_on]:
        for name in free:
            del left[name]
    if left:
        cycle = _cycle(left)
        shown = " -> ".join([*cycle, cycle[0]])
        raise _refusal(nodes[cycle[0]], "depends_on", f"goes round: {shown}", cycle=cycle)


def _cycle(left: Mapping[str, Node]) -> list[str]:
    """One of the cycles, when each node waits for another one of these."""
    seen: dict[str, None] = {}
    name = next(iter(left))
    while name not in seen:
        seen[name] = None
        name = next(other for other in left[name].depends_on if other in left)
    way = list(seen)
    return way[way.index(name) :]


def _check_kind(node: Node) -> None:
    if node.kind in TASKS and node.agent_id is not None:
        raise _refusal(node, "agent_id", f"does not go with the kind {node.kind!r}")
    if node.work == "agent" and not is_id(node.agent_id or ""):
        raise _refusal(node, "agent_id", "is not the id of an agent, which this node needs")


def _check_work(flow: Flow, node: Node) -> None:
    settings_of(node)
    task = task_of(node)
    if task is None and node.work is None and (unknown := sorted(agent_config(node))):
        raise _refusal(node, f"config.{unknown[0]}", "means nothing here: nobody does this node")
    if isinstance(task, FlowTask) and task.flow_id == flow.flow_id:
        raise _refusal(node, "config.flow_id", "is the flow itself", cycle=[flow.flow_id])
    if isinstance(task, LlmTask):
        for field in ("prompt", "system_prompt"):
            with _Refused(node, f"config.{field}"):
                names_of(getattr(task, field))


def _check_conditions(node: Node, successors: list[str]) -> None:
    if node.type != "conditional":
        if node.conditions is not None:
            raise _refusal(node, "conditions", "belong to nodes of the type 'conditional'")
        return
    if not node.conditions:
        raise _refusal(node, "conditions", "are missing: a conditional says where it goes on")
    if len(node.conditions) > BRANCHES_LIMIT:
        raise _refusal(node, "conditions", f"are more than {BRANCHES_LIMIT}")
    for number, branch in enumerate(node.conditions):
        is_last = number == len(node.conditions) - 1
        _check_branch(node, f"conditions[{number}]", branch, is_last=is_last)
        for name in (*branch.then, *branch.otherwise):
            if name not in successors:
                text = f"goes on to {name[:SHOWN_CHARS]!r}, which does not depend on this node"
                raise _refusal(node, f"conditions[{number}]", text)


def _check_branch(node: Node, field: str, branch: Branch, *, is_last: bool) -> None:
    if branch.when is None:
        if branch.then or not branch.otherwise:
            raise _refusal(node, field, "has neither 'when' and 'then', nor 'else'")
        if not is_last:
            raise _refusal(node, field, "has 'else', which only the last one may have")
        return
    if branch.otherwise:
        raise _refusal(node, field, "has 'when' and 'else'; write two")
    with _Refused(node, f"{field}.when"):
        compile_expression(branch.when)


def _check_ends(flow: Flow, nodes: Mapping[str, Node]) -> None:
    if flow.entry_point is not None and flow.entry_point not in nodes:
        text = f"entry_point: {flow.entry_point[:SHOWN_CHARS]!r} is no node."
        raise FlowInvalid(text, field="entry_point")
    for name in flow.exit_points:
        if name not in nodes:
            text = f"exit_points: {name[:SHOWN_CHARS]!r} is no node."
            raise FlowInvalid(text, field="exit_points")


def _check_size(flow: Flow) -> None:
    try:
        size = len(encode(flow))
    except (UnicodeError, OverflowError):
        raise FlowInvalid("The document has a text or a number that JSON has not.") from None
    if size > DOCUMENT_LIMIT_BYTES:
        raise FlowInvalid(f"A flow has {DOCUMENT_LIMIT_BYTES // 1024} KiB at most.")


def _check_json(field: str, value: object, node: Node | None = None) -> None:
    """Refuse what YAML has and JSON has not: dates, bytes, names that are no texts, infinity."""
    level: list[object] = [value]
    for _ in range(DEPTH_LIMIT):
        for one in level:
            if not _is_json(one):
                text = f"has {str(one)[:SHOWN_CHARS]!r}, which is no JSON; quote it"
                raise _refusal(node, field, text)
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return
    raise _refusal(node, field, f"is nested deeper than {DEPTH_LIMIT} levels")


def _is_json(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(isinstance(name, str) for name in value)
    if isinstance(value, int):
        return INTEGERS[0] <= value <= INTEGERS[1]
    return value is None or isinstance(value, str | list)


def _inside(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _converted(node: Node, given: Mapping[str, Any], kind: type[T]) -> T:
    known = {field.encode_name for field in msgspec.structs.fields(kind)}  # type: ignore[arg-type]  # a struct's
    if unknown := sorted(given.keys() - known):
        raise _refusal(node, f"config.{unknown[0]}", f"is none of {', '.join(sorted(known))}")
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at `$")
        raise _refusal(node, f"config{where.rstrip('`')}", _lowered(why)) from None


def _misread(document: object, text: str) -> FlowInvalid:
    """Say of which node msgspec speaks."""
    at = _AT.fullmatch(text)
    if at is None:
        return FlowInvalid(f"The document: {_lowered(text)}.")
    field = at["field"]
    why = ("a name in it: " if at["key"] else "") + _lowered(at["why"])
    if at["node"] is None:
        return FlowInvalid(f"{field or 'The document'}: {why}.", field=field)
    name = _named(document, int(at["node"]))
    shown = f"{field}: " if field else ""
    return FlowInvalid(f"Node {name!r}: {shown}{why}.", node=name, field=field)


def _named(document: object, number: int) -> str:
    """The id of a node that cannot be read, or its place if it has none."""
    nodes = document.get("nodes") if isinstance(document, Mapping) else None
    node = nodes[number] if isinstance(nodes, list) else None
    name = node.get("id") if isinstance(node, Mapping) else None
    return name[:SHOWN_CHARS] if isinstance(name, str) else f"nodes[{number}]"


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


class _Refused:
    """Has whatever is refused in the block be said of this field of this node."""

    def __init__(self, node: Node, field: str) -> None:
        self._node = node
        self._field = field

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Invalid):
            text = f"Node {self._node.id!r}: {self._field}: {error}"
            raise FlowInvalid(text, node=self._node.id, field=self._field) from None


def _refusal(node: Node | None, field: str, why: str, **extra: Any) -> FlowInvalid:
    if node is None:
        return FlowInvalid(f"{field} {why}.", field=field, **extra)
    return FlowInvalid(f"Node {node.id!r}: {field} {why}.", node=node.id, field=field, **extra)
