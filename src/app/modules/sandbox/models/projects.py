"""Projects that were made over the API."""

from typing import Any

from sqlalchemy import JSON, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table


class ProjectRow(Table):
    """One project. ``document`` is what a file would say, less its secrets, which are sealed."""

    __tablename__ = "sandbox_projects"

    name: Mapped[str] = mapped_column(String(64), unique=True)
    document: Mapped[dict[str, Any]] = mapped_column(JSON)
    secrets_sealed: Mapped[bytes] = mapped_column(LargeBinary)
