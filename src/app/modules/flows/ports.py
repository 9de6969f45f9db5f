"""What flows need from outside."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from app.kernel.errors import BadUpstream, UpstreamTimeout
from app.modules.flows.domain.definitions import Flow


class AgentRefused(BadUpstream):
    """The agent was not reached at all, or it answered that it did not do it."""

    title = "Agent refused"


class AgentBroken(BadUpstream):
    """The agent was reached and answered nonsense, too much, or broke off: nobody knows whether it
    has done it.
    """

    title = "Agent broken"


class AgentSilent(UpstreamTimeout):
    """The agent did not answer in time: nobody knows whether it has done it."""

    title = "Agent silent"


class AgentAddress(msgspec.Struct, frozen=True):
    """Where an agent is, and how it knows us. ``may_be_private``: its address may be in a private
    network. ``token`` never shows itself.
    """

    agent_id: str
    endpoint: str
    token: str | None
    may_be_private: bool

    def __repr__(self) -> str:
        return f"AgentAddress({self.agent_id!r})"


class AgentCall(msgspec.Struct, frozen=True):
    """One node, as an agent is asked to do it."""

    execution_id: str
    node_id: str
    input: dict[str, Any]
    config: dict[str, Any]


class AgentOutlet(Protocol):
    """Speaks HTTP to agents."""

    async def execute(self, agent: AgentAddress, call: AgentCall, *, within_s: float) -> Any:
        """The agent's output; ``AgentRefused``, ``AgentBroken`` or ``AgentSilent`` if none."""
        ...

    async def health(self, agent: AgentAddress, *, within_s: float) -> Mapping[str, Any]:
        """What the agent says of itself; raises as ``execute``."""
        ...

    async def close(self) -> None: ...


class Seal(Protocol):
    """Keeps secrets at rest."""

    def seal(self, text: bytes, context: bytes) -> bytes: ...

    def unseal(self, sealed: bytes, context: bytes) -> bytes | None:
        """``None`` where no secret of the installation has sealed it for this context."""
        ...


class FlowFiles(Protocol):
    """The operator's flows. Unreadable ones are told in the log and left out."""

    async def read(self) -> Mapping[str, Flow]:
        """Every flow that has a file, by its id."""
        ...
