"""How the Docker runner is set, and how its containers are marked."""

from typing import Final, Literal

import msgspec

from app.kernel.settings import Secret

APP: Final = "insula.app"
INSTANCE: Final = "insula.instance"
PROJECT: Final = "insula.project"
STARTED: Final = "insula.started"
STAGE: Final = "insula.stage"
CONTAINER: Final = "sandbox"


class DockerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What containers are made of, what each may take, and how long the engine is waited for.

    ``runtime``: ``auto`` is gVisor where the engine has it. ``build_network`` is the engine's name
    of the network that packages are installed over; scripts have none. ``index_url``: pip's.
    """

    image: str = "python:3.12-slim"
    runtime: Literal["auto", "runc", "runsc"] = "auto"
    cpus: float = 1.0
    index_url: Secret = Secret("")
    build_network: str = ""
    build_timeout_s: float = 600.0
    spawn_timeout_s: float = 30.0
    call_timeout_s: float = 20.0
    ping_every_s: float = 2.0
    close_timeout_s: float = 15.0
