"""Chooses where flows are written down, and how agents are spoken to."""

from pathlib import Path
from typing import TYPE_CHECKING

from app.kernel.keys import AesGcmSeal
from app.kernel.module import Kit
from app.modules.flows.adapters.flow_files import YamlFlowFiles
from app.modules.flows.settings import FlowSettings

if TYPE_CHECKING:
    from app.modules.flows.adapters.agent_http import AgentHttp

SHIPPED = Path(__file__).parents[1] / "shipped"


def open_files(settings: FlowSettings, kit: Kit) -> YamlFlowFiles:
    folder = settings.folder or str(Path(kit.house.data_dir) / "flows")
    return YamlFlowFiles(folder, str(SHIPPED))


def open_outlet(settings: FlowSettings) -> "AgentHttp":
    """Nothing is contacted."""
    from app.modules.flows.adapters.agent_http import AgentHttp

    return AgentHttp(settings.answer_kb * 1024)


def open_seal(kit: Kit) -> AesGcmSeal:
    return AesGcmSeal(kit.keys, "flows-sealing")
