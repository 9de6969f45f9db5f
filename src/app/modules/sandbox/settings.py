"""The environment of the sandbox."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.kernel.settings import Settings, env


class SandboxSettings(Settings, frozen=True, rename=env("SANDBOX")):
    """What runs scripts, how well it must be isolated, and where projects are written down."""

    prefix: Annotated[
        str,
        Meta(
            pattern=r"^(/[a-z0-9-]+)*/?$",
            description="Where the contract lies; `/` makes a server of its own of it.",
        ),
    ] = "/sandbox"
    runner: Annotated[
        Literal["auto", "jail", "docker"],
        Meta(description="`auto`: the jail where this host can isolate, else Docker."),
    ] = "auto"
    min_tier: Annotated[
        Literal["A", "B", "docker", "gvisor"],
        Meta(description="Refuse to run scripts with less: B < A < docker < gvisor."),
    ] = "B"
    jail_tier: Annotated[
        Literal["auto", "A", "B"],
        Meta(description="A has namespaces and an own root; B is Landlock and seccomp alone."),
    ] = "auto"
    replicas: Annotated[
        int,
        Meta(ge=0, le=64, description="Workers kept ready for the default project; 0: none."),
    ] = 2
    projects_dir: Annotated[
        str, Meta(description="Folder of `<name>.yaml`; empty: `projects` below APP_DATA.")
    ] = ""
    index_url: Annotated[
        str, Meta(description="Package index for projects; empty: what pip is configured for.")
    ] = ""
    build_timeout_s: Annotated[
        int, Meta(ge=10, le=3600, description="Most that installing a project's packages takes.")
    ] = 600
    body_limit_bytes: Annotated[
        int, Meta(ge=1024, le=128 * 2**20, description="Largest request, files included.")
    ] = 16 * 2**20
    docker_image: Annotated[
        str, Meta(description="Image with Python that projects are built on.")
    ] = "python:3.12-slim"
    docker_runtime: Annotated[
        Literal["auto", "runc", "runsc"],
        Meta(description="`auto`: gVisor's runsc where the engine has it."),
    ] = "auto"
    docker_build_network: Annotated[
        str, Meta(description="Network that images are built over; empty: the engine's default.")
    ] = ""
    docker_host: Annotated[str, Meta(description="Docker's own variable; empty: its default.")] = (
        msgspec.field(default="", name="DOCKER_HOST")
    )
