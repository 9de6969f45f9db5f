"""HTTP of flows."""

from app.modules.flows.controllers.agents import AgentController
from app.modules.flows.controllers.executions import ExecutionController
from app.modules.flows.controllers.flows import FlowController
from app.modules.flows.controllers.system import SystemController

__all__ = ["AgentController", "ExecutionController", "FlowController", "SystemController"]
