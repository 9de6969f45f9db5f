"""The environment of flows."""

from typing import Annotated

from msgspec import Meta

from app.kernel.settings import Settings, env


class FlowSettings(Settings, frozen=True, rename=env("FLOWS")):
    """Where flows are written down, and how much of them runs at once."""

    prefix: Annotated[
        str,
        Meta(
            pattern=r"^(/[a-z0-9-]+)*/?$",
            description="Where the contract lies; `/` makes a server of its own of it.",
        ),
    ] = "/spine"
    folder: Annotated[
        str, Meta(description="Folder of `<name>.yaml`; empty: `flows` below APP_DATA.")
    ] = ""
    parallel_nodes: Annotated[
        int, Meta(ge=1, le=4096, description="Nodes at work at once in one process.")
    ] = 128
    answer_kb: Annotated[int, Meta(ge=1, le=65_536, description="Largest answer of an agent.")] = (
        4096
    )
    health_every_s: Annotated[
        float, Meta(ge=1.0, le=86_400.0, description="How often an agent's health is looked at.")
    ] = 30.0
