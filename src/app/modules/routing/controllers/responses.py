"""``/v1/responses``: what becomes of a response once it is kept."""

from typing import Annotated, Literal

import msgspec
from litestar import Controller, MediaType, Response, delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from app.modules.auth.api import Principal
from app.modules.routing.domain.responses.listing import ItemList, Order, page
from app.modules.routing.domain.unmappable import Unmappable
from app.modules.routing.service.conversations import Conversations

PAGE_ITEMS = 20
MAX_PAGE_ITEMS = 100


class ResponseDeleted(msgspec.Struct, frozen=True):
    """The response is gone."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class ResponseController(Controller):
    path = "/v1/responses"
    tags = ("openai",)
    opt = {"scope": "inference"}  # noqa: RUF012 - Litestar reads it as a class attribute

    @get("/{response_id:str}", summary="A response that was kept")
    async def read(
        self,
        conversations: NamedDependency[Conversations],
        principal: NamedDependency[Principal],
        response_id: FromPath[str],
        *,
        stream: FromQuery[bool] = False,
    ) -> Response[bytes]:
        """As it was sent. It is not streamed again."""
        if stream:
            raise Unmappable("A response that was kept is not streamed again.", param="stream")
        body = await conversations.get(principal.user_id, response_id)
        return Response(body, media_type=MediaType.JSON)

    @delete("/{response_id:str}", status_code=200, summary="Forget a response")
    async def delete(
        self,
        conversations: NamedDependency[Conversations],
        principal: NamedDependency[Principal],
        response_id: FromPath[str],
    ) -> ResponseDeleted:
        await conversations.delete(principal.user_id, response_id)
        return ResponseDeleted(response_id)

    @get("/{response_id:str}/input_items", summary="What a response was asked with")
    async def input_items(
        self,
        conversations: NamedDependency[Conversations],
        principal: NamedDependency[Principal],
        response_id: FromPath[str],
        after: FromQuery[str | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE_ITEMS)] = PAGE_ITEMS,
        order: FromQuery[Order] = "desc",
    ) -> ItemList:
        """The newest first, unless ``order`` says otherwise."""
        items = await conversations.input_items(principal.user_id, response_id)
        return page(items, after=after, limit=limit, order=order)
