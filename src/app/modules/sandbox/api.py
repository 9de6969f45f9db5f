"""What other modules may see of the sandbox: a script, run in this process."""

from typing import Any, Literal, Protocol
from uuid import UUID

import msgspec

from app.modules.auth.api import Principal

__all__ = ["Script", "ScriptEnd", "Scripts"]


class Script(msgspec.Struct, frozen=True):
    """A script and what it is given; ``files`` lie in its working folder. The gateway answers what
    it asks language models.
    """

    code: str
    project: str = "default"
    timeout_s: int = 60
    settings: dict[str, str] = {}
    memory: dict[str, Any] = {}
    files: dict[str, bytes] = {}


class ScriptEnd(msgspec.Struct, frozen=True):
    """How a script ended. ``error`` is ``None`` where it ended well."""

    status: Literal["completed", "error", "timeout"]
    result: Any
    stdout: str
    error: str | None


class Scripts(Protocol):
    """Scripts as ``POST /sandbox/execute`` runs them: isolated, within the caller's limits."""

    async def start(self, principal: Principal, script: Script, *, key: str) -> UUID:
        """Start a script, or find the one that was started with this key; its execution's id."""
        ...

    async def wait(self, user_id: UUID, execution_id: UUID) -> ScriptEnd:
        """Wait until it has ended. Who stops waiting does not stop the script."""
        ...

    async def stop(self, user_id: UUID, execution_id: UUID) -> None:
        """End it, if it runs."""
        ...
