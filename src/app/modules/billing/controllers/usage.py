"""HTTP of usage."""

from collections.abc import AsyncIterator
from datetime import date
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

import msgspec
from litestar import Controller, Request, Response, get
from litestar.di import NamedDependency, Provide
from litestar.params import FromQuery, QueryParameter
from litestar.response import Stream

from app.kernel.db import Page
from app.kernel.errors import Invalid
from app.modules.auth.api import Principal
from app.modules.billing.domain.reports import Grouping, UsageFilter
from app.modules.billing.schemas import (
    ROW_HEAD,
    SUM_HEAD,
    UsageRead,
    UsageSumRead,
    row_lines,
    sum_lines,
)
from app.modules.billing.service.reports import UsageReports

MAX_PAGE = 500
CSV = "text/csv"

Report: TypeAlias = Page[UsageRead] | Page[UsageSumRead]


class CursorMalformed(Invalid):
    """A cursor is the ``next`` of a page of the same list."""

    title = "Cursor malformed"


class Span(msgspec.Struct, frozen=True):
    """Which page of which list, and whether it is a sheet."""

    by: Grouping | None
    cursor: str | None
    limit: int
    is_sheet: bool


async def provide_filter(
    principal: NamedDependency[Principal],
    model: FromQuery[str | None] = None,
    key_id: FromQuery[UUID | None] = None,
    from_ms: FromQuery[int | None] = None,
    to_ms: FromQuery[int | None] = None,
) -> UsageFilter:
    return UsageFilter(principal.user_id, model, key_id, from_ms, to_ms)


async def provide_span(
    request: Request[Any, Any, Any],
    by: FromQuery[Grouping | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)] = 50,
    sheet: Annotated[Literal["json", "csv"] | None, QueryParameter(name="format")] = None,
) -> Span:
    wants_csv = request.headers.get("accept", "").split(";")[0].strip().lower() == CSV
    return Span(by, cursor, limit, sheet == "csv" or (sheet is None and wants_csv))


class UsageController(Controller):
    path = "/api/v1/usage"
    tags = ("billing",)

    @get(
        summary="Your model calls, newest first, or their sums by day, model or key",
        dependencies={"wanted": Provide(provide_filter), "span": Provide(provide_span)},
    )
    async def list(
        self,
        usage_reports: NamedDependency[UsageReports],
        wanted: NamedDependency[UsageFilter],
        span: NamedDependency[Span],
    ) -> Response[Report]:
        """`format=csv`, or `Accept: text/csv`, answers the whole list as a sheet."""
        if span.is_sheet:
            return _sheet(usage_reports, wanted, span)
        return Response(await _page(usage_reports, wanted, span))


async def _page(reports: UsageReports, wanted: UsageFilter, span: Span) -> Report:
    if span.by is None:
        rows = await reports.list(wanted, _call(span.cursor), span.limit)
        following = str(rows[-1].id) if len(rows) == span.limit else None
        return Page([UsageRead.of(row) for row in rows], following)
    sums = await reports.sums(wanted, span.by, _group(span.by, span.cursor), span.limit)
    following = sums[-1].group if len(sums) == span.limit else None
    return Page([UsageSumRead.of(one) for one in sums], following)


def _sheet(reports: UsageReports, wanted: UsageFilter, span: Span) -> Response[Any]:
    async def lines() -> AsyncIterator[str]:
        if span.by is None:
            yield ROW_HEAD
            async for rows in reports.every_row(wanted):
                yield row_lines(rows)
            return
        yield SUM_HEAD
        async for sums in reports.every_sum(wanted, span.by):
            yield sum_lines(sums)

    name = f"usage-by-{span.by}.csv" if span.by else "usage.csv"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Stream(lines(), media_type=CSV, headers=headers)


def _call(cursor: str | None) -> UUID | None:
    try:
        return None if cursor is None else UUID(cursor)
    except ValueError:
        raise CursorMalformed("cursor is the `next` of the page before.") from None


def _group(by: Grouping, cursor: str | None) -> str | None:
    """A cursor that a group of this kind can have."""
    try:
        if cursor is not None and by == "day":
            return date.fromisoformat(cursor).isoformat()
        if cursor is not None and by == "key":
            return str(UUID(cursor))
    except ValueError:
        raise CursorMalformed("cursor is the `next` of the page before.") from None
    return cursor
