"""HTTP of the sandbox."""

from app.modules.sandbox.controllers.about import AboutController
from app.modules.sandbox.controllers.executions import ExecuteController, ExecutionController
from app.modules.sandbox.controllers.projects import ProjectController

__all__ = ["AboutController", "ExecuteController", "ExecutionController", "ProjectController"]
