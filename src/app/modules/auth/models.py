"""Tables of auth."""

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import JSON, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table, Timestamp
from app.modules.auth.domain import CredentialKind, Role


class UserRow(Table):
    """One account. ``email`` is in its normal form; no ``credential_hash``, no login by mail.

    ``version`` is the ``ver`` of access tokens: raising it ends all that were signed before.
    """

    __tablename__ = "auth_users"

    email: Mapped[str] = mapped_column(String(254), unique=True)
    role: Mapped[Role] = mapped_column(String(16), index=True)
    credential_kind: Mapped[CredentialKind] = mapped_column(String(16))
    credential_hash: Mapped[str | None] = mapped_column(Text)
    kdf_salt: Mapped[str] = mapped_column(String(64))
    keyring: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int] = mapped_column(default=1)


class SessionRow(Table):
    """One signed-in device: a family of refresh tokens. Live until it expires or is revoked."""

    __tablename__ = "auth_sessions"

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("auth_users.id", ondelete="CASCADE"), index=True
    )
    device_name: Mapped[str] = mapped_column(String(100))
    last_used_at: Mapped[datetime] = mapped_column(Timestamp)
    expires_at: Mapped[datetime] = mapped_column(Timestamp, index=True)
    revoked_at: Mapped[datetime | None] = mapped_column(Timestamp)


class RefreshTokenRow(Table):
    """One link of a session's chain. ``parent_id`` is unique: a family cannot fork."""

    __tablename__ = "auth_refresh_tokens"

    session_id: Mapped[UUID] = mapped_column(
        ForeignKey("auth_sessions.id", ondelete="CASCADE"), index=True
    )
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    parent_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("auth_refresh_tokens.id", ondelete="SET NULL"), unique=True
    )
    successor_sealed: Mapped[str | None] = mapped_column(Text)
    used_at: Mapped[datetime | None] = mapped_column(Timestamp)
    expires_at: Mapped[datetime] = mapped_column(Timestamp, index=True)


class ApiKeyRow(Table):
    """One API key. ``token_hash`` is of the whole key; ``models`` ``None`` allows every model."""

    __tablename__ = "auth_api_keys"
    __table_args__ = (Index("ix_auth_api_keys_user_id_id", "user_id", "id"),)

    user_id: Mapped[UUID] = mapped_column(ForeignKey("auth_users.id", ondelete="CASCADE"))
    public_id: Mapped[str] = mapped_column(String(32), unique=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    models: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    expires_at: Mapped[datetime | None] = mapped_column(Timestamp)
    revoked_at: Mapped[datetime | None] = mapped_column(Timestamp)
    last_used_on: Mapped[date | None]


class EventRow(Table):
    """The audit trail: what happened to an account, ``created_at`` when, and from which network.

    ``credential_id`` is a session or an API key, and outlives it.
    """

    __tablename__ = "auth_events"
    __table_args__ = (
        Index("ix_auth_events_user_id_ip_prefix", "user_id", "ip_prefix"),
        Index("ix_auth_events_created_at", "created_at"),
    )

    user_id: Mapped[UUID] = mapped_column(ForeignKey("auth_users.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(32))
    credential_id: Mapped[UUID | None]
    ip_prefix: Mapped[str] = mapped_column(String(64))
