"""The environment of runs."""

from typing import Annotated

from msgspec import Meta

from app.kernel.settings import Settings, env


class RunSettings(Settings, frozen=True, rename=env("RUNS")):
    """How long runs are kept, and how long a process may be silent."""

    keep_hours: Annotated[
        int, Meta(ge=1, le=87_600, description="Hours after which a run that ended is forgotten.")
    ] = 24
    keep_count: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Ended runs of one user that are kept at most.")
    ] = 10_000
    lease_s: Annotated[
        float,
        Meta(ge=1.0, le=600.0, description="Silence after which a process counts as dead."),
    ] = 15.0
