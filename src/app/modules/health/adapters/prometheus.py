"""Metrics in the text format of Prometheus."""

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector

from app.kernel.settings import SettingsError


class ProcessPage:
    """Counters of this process."""

    media_type = CONTENT_TYPE_PLAIN_0_0_4

    def render(self) -> bytes:
        return generate_latest()


class WorkersPage:
    """Counters of all workers together, from the files into which each of them counts."""

    media_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, folder: str) -> None:
        if not Path(folder).is_dir():
            raise SettingsError("PROMETHEUS_MULTIPROC_DIR must be a folder that exists.")
        self._folder = folder

    def render(self) -> bytes:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self._folder)  # type: ignore[no-untyped-call]  # theirs
        return generate_latest(registry)
