"""Tables of the sandbox."""

from app.modules.sandbox.models.executions import ExecutionRow
from app.modules.sandbox.models.pools import PoolRow
from app.modules.sandbox.models.projects import ProjectRow

__all__ = ["ExecutionRow", "PoolRow", "ProjectRow"]
