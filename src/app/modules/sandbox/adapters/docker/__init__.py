"""The Docker runner."""

from app.modules.sandbox.adapters.docker.options import DockerOptions
from app.modules.sandbox.adapters.docker.runner import DockerRunner

__all__ = ["DockerOptions", "DockerRunner"]
