"""The environment of health."""

from typing import Annotated

import msgspec
from msgspec import Meta

from app.kernel.settings import Settings, env


class HealthSettings(Settings, frozen=True, rename=env("HEALTH")):
    """How long a check may take, and where the workers count."""

    check_timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="Seconds after which a check of readiness has failed.")
    ] = 2.0
    multiproc_dir: Annotated[
        str,
        Meta(description="Folder in which several workers count together, empty at the start."),
    ] = msgspec.field(name="PROMETHEUS_MULTIPROC_DIR", default="")
