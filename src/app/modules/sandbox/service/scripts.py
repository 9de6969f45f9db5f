"""Scripts for other modules of this process."""

from collections.abc import Mapping
from typing import Final, Literal
from uuid import UUID

from app.modules.auth.api import Principal
from app.modules.sandbox.api import Script, ScriptEnd
from app.modules.sandbox.domain.executions import Execution, InputFile, Order
from app.modules.sandbox.service.executions import Executions
from app.modules.sandbox.service.views import Views

WORDS: Final[Mapping[str, Literal["completed", "timeout"]]] = {
    "completed": "completed",
    "timeout": "timeout",
}


class SandboxScripts:
    """Implements ``api.Scripts``."""

    def __init__(self, executions: Executions, views: Views, *, has_gateway: bool) -> None:
        self._executions = executions
        self._views = views
        self._has_gateway = has_gateway

    async def start(self, principal: Principal, script: Script, *, key: str) -> UUID:
        order = Order(
            script.project,
            script.code,
            script.timeout_s,
            script.settings,
            script.memory,
            tuple(InputFile(name, data) for name, data in script.files.items()),
            # Without one, its caller can answer over HTTP.
            llm="gateway" if self._has_gateway else None,
        )
        return (await self._executions.submit(principal, order, key)).id

    async def wait(self, user_id: UUID, execution_id: UUID) -> ScriptEnd:
        async for _ in self._views.follow(user_id, execution_id):
            pass
        return _end_of(await self._views.ended(user_id, execution_id))

    async def stop(self, user_id: UUID, execution_id: UUID) -> None:
        await self._executions.cancel(user_id, execution_id)


def _end_of(execution: Execution) -> ScriptEnd:
    left = execution.outcome
    return ScriptEnd(
        WORDS.get(execution.status, "error"),
        left.result if left else None,
        left.stdout if left else "",
        execution.error,
    )
