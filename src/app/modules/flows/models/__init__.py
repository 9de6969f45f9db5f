"""Tables of flows."""

from app.modules.flows.models.agents import AgentRow
from app.modules.flows.models.executions import ExecutionRow, NodeRow
from app.modules.flows.models.flows import DefinitionRow, FlowRow

__all__ = ["AgentRow", "DefinitionRow", "ExecutionRow", "FlowRow", "NodeRow"]
