"""Agents that are spoken to without HTTP."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from app.modules.flows.ports import AgentAddress, AgentCall


class FakeOutlet:
    """Every agent does what it is asked, and says which node it did.

    ``done`` counts by agent and node; ``step`` is called before and after each.
    """

    def __init__(self, step: Callable[[], None] = lambda: None) -> None:
        self.done: Counter[tuple[str, str]] = Counter()
        self._step = step

    async def execute(self, agent: AgentAddress, call: AgentCall, *, within_s: float) -> Any:
        self._step()
        self.done[agent.agent_id, call.node_id] += 1
        self._step()
        return {call.node_id: sorted(call.input)}

    async def health(self, agent: AgentAddress, *, within_s: float) -> Mapping[str, Any]:
        return {"ready": True}

    async def close(self) -> None: ...
