"""The environment of SurrealDB."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.kernel.settings import Secret, Settings, SettingsError, env


class SurrealSettings(Settings, frozen=True, rename=env("SURREALDB")):
    """Which SurrealDB is used, and as whom."""

    url: Annotated[
        str, Meta(description="ws://host:8000/rpc or wss://; unset: the engine in the process.")
    ] = ""
    ns: Annotated[str, Meta(min_length=1, description="Namespace.")] = "insula"
    db: Annotated[str, Meta(min_length=1, description="Database.")] = "main"
    user: Annotated[str, Meta(description="User to sign in as; unset: no sign-in.")] = ""
    password: Annotated[Secret, Meta(description="Password of SURREALDB_USER.")] = msgspec.field(
        name="SURREALDB_PASS", default=Secret("")
    )
    auth_level: Annotated[
        Literal["root", "namespace", "database"],
        Meta(description="What SURREALDB_USER is a user of."),
    ] = "root"
    timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="Seconds that one query may take.")
    ] = 30.0

    def refuse_wrong_combinations(self, workers: int) -> None:
        """Two owners of one embedded engine miss each other's writes and break its indexes."""
        if self.url and not self.url.startswith(("ws://", "wss://")):
            raise SettingsError("SURREALDB_URL must begin with ws:// or wss://")
        if not self.url and workers > 1:
            raise SettingsError("APP_WORKERS above 1 needs SURREALDB_URL (a SurrealDB server).")
