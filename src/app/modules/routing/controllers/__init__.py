"""The doors of routing."""

from app.modules.routing.controllers.models import ModelController
from app.modules.routing.controllers.wire import Wire

__all__ = ["ModelController", "Wire"]
