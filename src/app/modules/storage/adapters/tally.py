"""Shows what the newest inventory has found, for Prometheus."""

from typing import Final

from prometheus_client import Gauge

from app.modules.storage.domain.inventory import Findings

FAULTS: Final = Gauge(
    "insula_storage_faults",
    "What does not fit, after the newest inventory of the store.",
    ("fault",),
    multiprocess_mode="mostrecent",
)


def show(findings: Findings) -> None:
    for fault, tally in findings.faults.items():
        FAULTS.labels(fault).set(tally.count)
