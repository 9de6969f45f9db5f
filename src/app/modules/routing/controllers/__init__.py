"""The doors of routing."""

from app.modules.routing.controllers.admin import (
    AliasController,
    CacheController,
    ExplainController,
    UpstreamController,
)
from app.modules.routing.controllers.models import ModelController
from app.modules.routing.controllers.responses import ResponseController
from app.modules.routing.controllers.tally import Tally
from app.modules.routing.controllers.warden import Warden
from app.modules.routing.controllers.wire import Wire
from app.modules.routing.controllers.workers import WorkerController

__all__ = [
    "AliasController",
    "CacheController",
    "ExplainController",
    "ModelController",
    "ResponseController",
    "Tally",
    "UpstreamController",
    "Warden",
    "Wire",
    "WorkerController",
]
