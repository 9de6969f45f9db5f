"""What other modules may see of health: the page that Prometheus reads."""

from typing import Protocol


class MetricsPage(Protocol):
    """What this process, or all workers together, have counted since the start."""

    @property
    def media_type(self) -> str: ...

    def render(self) -> bytes:
        """Write the page. With several workers this reads their files, so it may take a while."""
        ...
