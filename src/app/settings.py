"""The house's own variables, and the one place that reads the environment."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from app.kernel.settings import Csv, Secret, Settings, SettingsError

# Whatever is written belongs to whoever runs the server, and to nobody else.
OWNER_ONLY: Final = 0o077
ENVIRON: Final[Mapping[str, str]] = os.environ

Text = Annotated[str, Meta(min_length=1)]


def described(text: str) -> Meta:
    """Attach the documentation of a variable to its type."""
    return Meta(description=text)


def export(name: str, value: str) -> None:
    """Set a variable for this process and the workers it is about to start."""
    os.environ[name] = value


class HouseSettings(Settings, frozen=True):
    """Where the house listens, where it keeps its data, and which engines it uses."""

    host: Annotated[str, described("Address to listen on.")] = msgspec.field(
        name="APP_HOST", default="127.0.0.1"
    )
    port: Annotated[int, Meta(ge=1, le=65535), described("Port to listen on.")] = msgspec.field(
        name="APP_PORT", default=8000
    )
    workers: Annotated[
        int, Meta(ge=1, le=64), described("Processes. More than one needs Postgres and Redis.")
    ] = msgspec.field(name="APP_WORKERS", default=1)
    data: Annotated[str, described("Folder for everything that is kept on disk.")] = msgspec.field(
        name="APP_DATA", default="./data"
    )
    secret: Annotated[
        Secret | None,
        described(
            "Master secret, 32 characters or more; `new,old` while rotating. "
            "Made in APP_DATA by the first start; required with Postgres."
        ),
    ] = msgspec.field(name="APP_SECRET", default=None)
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], described("Least level that is logged.")
    ] = msgspec.field(name="LOG_LEVEL", default="info")
    body_limit_bytes: Annotated[
        int,
        Meta(ge=1024),
        described("Largest request body, except under /v1 (ROUTING_BODY_LIMIT_BYTES)."),
    ] = msgspec.field(name="APP_BODY_LIMIT_BYTES", default=1_048_576)
    drain_s: Annotated[
        int,
        Meta(ge=1, le=600),
        described("Seconds that a shutdown waits for requests in flight."),
    ] = msgspec.field(name="APP_DRAIN_S", default=30)
    cors_origins: Annotated[
        Csv, described("Origins a browser may call from. `*` in a port matches any port.")
    ] = msgspec.field(
        name="CORS_ORIGINS", default=Csv(("app://*", "http://localhost:*", "http://127.0.0.1:*"))
    )
    database_url: Annotated[
        Secret | None, described("postgresql://user:password@host/name; unset: SQLite in APP_DATA.")
    ] = msgspec.field(name="DATABASE_URL", default=None)
    sqlite_path: Annotated[
        str, described("Where the embedded database lies; unset: insula.db in APP_DATA.")
    ] = msgspec.field(name="SQLITE_DB_PATH", default="")
    redis_url: Annotated[
        Secret | None, described("redis://host:6379/0; unset: a cache in the process.")
    ] = msgspec.field(name="REDIS_URL", default=None)
    s3_bucket: Annotated[str, described("Bucket for blobs; unset: a folder in APP_DATA.")] = (
        msgspec.field(name="S3_BUCKET", default="")
    )
    s3_endpoint: Annotated[str, described("Base URL of an S3-compatible server.")] = msgspec.field(
        name="S3_ENDPOINT", default=""
    )
    s3_region: Annotated[str, described("Region of the bucket.")] = msgspec.field(
        name="S3_REGION", default="us-east-1"
    )
    s3_access_key: Annotated[
        Secret | None, described("Access key; unset: what boto3 finds by itself.")
    ] = msgspec.field(name="S3_ACCESS_KEY", default=None)
    s3_secret_key: Annotated[Secret | None, described("Secret key to S3_ACCESS_KEY.")] = (
        msgspec.field(name="S3_SECRET_KEY", default=None)
    )
    s3_sse: Annotated[
        Literal["", "AES256", "aws:kms"],
        described("What the bucket encrypts blobs with; empty: its own default."),
    ] = msgspec.field(name="S3_SSE", default="")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        with suppress(ValueError):
            return ip_address(self.host).is_loopback
        return self.host == "localhost"

    @property
    def is_embedded(self) -> bool:
        return self.database_url is None

    @property
    def data_dir(self) -> Path:
        return Path(self.data).expanduser().absolute()

    @property
    def database_path(self) -> Path:
        """The file of the embedded database."""
        given = Path(self.sqlite_path).expanduser().absolute()
        return given if self.sqlite_path else self.data_dir / "insula.db"

    @property
    def sqlalchemy_url(self) -> str:
        """The database as SQLAlchemy names it."""
        if self.database_url is None:
            return f"sqlite+insula:///{self.database_path}"
        scheme, found, rest = self.database_url.partition("://")
        if not found or scheme.split("+")[0] not in {"postgresql", "postgres"}:
            raise SettingsError("DATABASE_URL must begin with postgresql://")
        # asyncpg's word for what every other client calls sslmode.
        return f"postgresql+asyncpg://{rest.replace('sslmode=', 'ssl=')}"

    def refuse_wrong_combinations(self) -> None:
        """Stop the start where processes would silently disagree with each other."""
        if self.workers > 1 and self.is_embedded:
            raise SettingsError("APP_WORKERS above 1 needs DATABASE_URL (PostgreSQL).")
        if self.workers > 1 and self.redis_url is None:
            raise SettingsError("APP_WORKERS above 1 needs REDIS_URL.")
        if not self.is_embedded and self.secret is None:
            raise SettingsError(
                "APP_SECRET is required with DATABASE_URL: 32 random characters or more, "
                "the same in every process."
            )
        _ = self.sqlalchemy_url


def origin_pattern(origins: Csv) -> str:
    """One regular expression for all origins; ``*`` stands for anything but a slash."""
    return "|".join(re.escape(origin).replace(r"\*", "[^/]*") for origin in origins) or r"(?!)"
