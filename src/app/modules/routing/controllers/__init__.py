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
from app.modules.routing.controllers.wire import ClientWatch, Wire
from app.modules.routing.controllers.workers import WorkerController

__all__ = [
    "AliasController",
    "CacheController",
    "ClientWatch",
    "ExplainController",
    "ModelController",
    "ResponseController",
    "Tally",
    "UpstreamController",
    "Wire",
    "WorkerController",
]
