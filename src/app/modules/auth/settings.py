"""The environment of auth."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.kernel.settings import Secret, Settings, env


class AuthSettings(Settings, frozen=True, rename=env("AUTH")):
    """Who may come in without a key, how passwords are hashed, how long tokens are valid.

    The least values of argon2id are OWASP's floor.
    """

    anonymous: Annotated[
        Literal["on", "off"],
        Meta(
            description="Let callers without a key, or with nobody's, act as the owner. Accepted "
            "only while APP_HOST is a loopback address."
        ),
    ] = "off"
    bootstrap_key: Annotated[
        Secret | None,
        Meta(
            description="The owner's first API key, any 32 characters or more; unset: the first "
            "start makes one and prints it. Changing it revokes the old one."
        ),
    ] = msgspec.field(name="APP_BOOTSTRAP_KEY", default=None)
    argon_memory_kib: Annotated[
        int, Meta(ge=19_456, le=4_194_304, description="Memory of one password hash, in KiB.")
    ] = 65_536
    argon_iterations: Annotated[
        int, Meta(ge=2, le=64, description="Passes of one password hash.")
    ] = 3
    argon_parallelism: Annotated[
        int, Meta(ge=1, le=16, description="Lanes of one password hash.")
    ] = 1
    access_ttl_s: Annotated[
        int, Meta(ge=60, le=3600, description="Seconds that an access token is valid.")
    ] = 600
    refresh_ttl_s: Annotated[
        int,
        Meta(
            ge=3600,
            le=31_536_000,
            description="Seconds without a refresh after which a session ends.",
        ),
    ] = 2_592_000
