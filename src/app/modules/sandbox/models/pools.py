"""Which projects are up."""

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table


class PoolRow(Table):
    """How many workers each process keeps ready for a project; 0 while it is down.

    A project without a row is as the settings say. ``version`` is raised by each ``up``: who has
    an older one takes the project up anew.
    """

    __tablename__ = "sandbox_pools"

    project: Mapped[str] = mapped_column(String(64), unique=True)
    replicas: Mapped[int]
    version: Mapped[int] = mapped_column(default=0)
