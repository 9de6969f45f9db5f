"""Collections and their vectors."""

from app.modules.storage.service.vectors.collections import Collections
from app.modules.storage.service.vectors.items import Vectors

__all__ = ["Collections", "Vectors"]
