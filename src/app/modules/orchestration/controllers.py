"""HTTP of orchestration: both routes answer 501 in the sidecar's shape, whatever the body is."""

from litestar import post
from litestar.di import NamedDependency
from litestar.status_codes import HTTP_501_NOT_IMPLEMENTED

from app.modules.auth.api import Principal
from app.modules.orchestration.schemas import ChatNotBuilt, SuggestNotBuilt

TAGS = ("orchestration",)


@post("/api/v1/chat", status_code=HTTP_501_NOT_IMPLEMENTED, opt={"scope": "inference"}, tags=TAGS)
async def chat(
    principal: NamedDependency[Principal],  # noqa: ARG001 - asking for one closes the route
) -> ChatNotBuilt:
    return ChatNotBuilt()


@post(
    "/api/v1/suggest", status_code=HTTP_501_NOT_IMPLEMENTED, opt={"scope": "inference"}, tags=TAGS
)
async def suggest(
    principal: NamedDependency[Principal],  # noqa: ARG001 - asking for one closes the route
) -> SuggestNotBuilt:
    return SuggestNotBuilt()
