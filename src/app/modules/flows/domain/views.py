"""Executions as they are shown."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from app.modules.flows.domain.definitions import Node
from app.modules.flows.domain.executions import Execution, ExecutionStatus, NodeState


class Told(msgspec.Struct, frozen=True):
    """A node, and what it was given."""

    node: Node
    input: dict[str, Any]


class Seen(msgspec.Struct, frozen=True):
    """An execution and how far its nodes are, those that have not begun left out.

    ``told`` is every node with what it was given, by path.
    """

    execution: Execution
    states: list[NodeState]
    told: Mapping[str, Told]


class Tally(msgspec.Struct, frozen=True):
    """How many executions there are, how long they took, and when the last one was started."""

    counts: Mapping[ExecutionStatus, int]
    total_s: float
    last_at: datetime | None
