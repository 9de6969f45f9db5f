"""An ordinary handler of Litestar's that reads one row of SQLite and answers its 4 KiB.

The same framework, session and driver as Insula, with no key, no owner and no headers of its own.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from litestar import Litestar, Response, get
from litestar.datastructures import State
from litestar.params import FromPath
from sqlalchemy import LargeBinary, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BODY_BYTES = 4096


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "rows"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)


ROW_ID = UUID(int=1)


@asynccontextmanager
async def opened(app: Litestar) -> AsyncIterator[None]:
    engine = create_async_engine(f"sqlite+insula:///{os.environ['BENCH_ROWS']}")
    app.state.sessions = async_sessionmaker(engine)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with app.state.sessions.begin() as session:
        await session.merge(Row(id=ROW_ID, body=os.urandom(BODY_BYTES)))
    yield
    await engine.dispose()


@get("/rows/{row_id:uuid}")
async def read(state: State, row_id: FromPath[UUID]) -> Response[bytes]:
    async with state.sessions() as session:
        row = (await session.scalars(select(Row).where(Row.id == row_id))).one()
        return Response(row.body, media_type="application/octet-stream")


@get("/health")
async def health() -> str:
    return "ok"


app = Litestar([read, health], lifespan=[opened], openapi_config=None)
