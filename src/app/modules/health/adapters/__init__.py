"""Chooses what the metrics are read from."""

from app.modules.health.api import MetricsPage


def open_metrics(multiproc_dir: str) -> MetricsPage:
    from app.modules.health.adapters.prometheus import ProcessPage, WorkersPage

    return WorkersPage(multiproc_dir) if multiproc_dir else ProcessPage()
