"""Chooses where flows are written down, and how agents are spoken to."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.kernel.keys import AesGcmSeal
from app.kernel.module import Kit
from app.modules.flows.adapters.flow_files import YamlFlowFiles
from app.modules.flows.ports import AgentAddress, AgentCall
from app.modules.flows.settings import FlowSettings

if TYPE_CHECKING:
    from app.modules.flows.adapters.agent_http import AgentHttp

SHIPPED = Path(__file__).parents[1] / "shipped"


def open_files(settings: FlowSettings, kit: Kit) -> YamlFlowFiles:
    folder = settings.folder or str(Path(kit.house.data_dir) / "flows")
    return YamlFlowFiles(folder, str(SHIPPED))


class LateOutlet:
    """Loads the HTTP client when an agent is first asked: no start should pay for it."""

    def __init__(self, answer_limit_bytes: int) -> None:
        self._answer_limit_bytes = answer_limit_bytes
        self._made: AgentHttp | None = None

    async def execute(self, agent: AgentAddress, call: AgentCall, *, within_s: float) -> Any:
        return await self._get().execute(agent, call, within_s=within_s)

    async def health(self, agent: AgentAddress, *, within_s: float) -> Mapping[str, Any]:
        return await self._get().health(agent, within_s=within_s)

    async def close(self) -> None:
        if self._made is not None:
            await self._made.close()

    def _get(self) -> "AgentHttp":
        if self._made is None:
            from app.modules.flows.adapters.agent_http import AgentHttp

            self._made = AgentHttp(self._answer_limit_bytes)
        return self._made


def open_outlet(settings: FlowSettings) -> LateOutlet:
    """Nothing is contacted."""
    return LateOutlet(settings.answer_kb * 1024)


def open_seal(kit: Kit) -> AesGcmSeal:
    return AesGcmSeal(kit.keys, "flows-sealing")
