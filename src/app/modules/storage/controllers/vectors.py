"""``/api/v1/storage/vectors``."""

import hashlib
from typing import Any, Final

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK

from app.kernel.errors import Invalid
from app.modules.auth.api import Principal
from app.modules.storage.controllers.reading import AnyRequest, read_json
from app.modules.storage.domain.searches import Ranking, Search
from app.modules.storage.domain.vectors import DEFAULT_NAME
from app.modules.storage.schemas.vectors import (
    FOUND,
    BlobsFound,
    VectorRead,
    VectorsDelete,
    VectorsDeleted,
    VectorSearch,
    VectorsFound,
    VectorUpsert,
    VectorUpserted,
    framed,
)
from app.modules.storage.service.vectors import Vectors

UPSERT_LIMIT_BYTES: Final = 8 * 2**20


class SearchInvalid(Invalid):
    """A search has a ``query``, or a ``query_blob`` alone."""

    title = "Search invalid"


class VectorController(Controller):
    path = "/api/v1/storage/vectors"
    tags = ("storage",)

    @post("/upsert", status_code=HTTP_200_OK, summary="Put items into a collection, all or none")
    async def upsert(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        vectors: NamedDependency[Vectors],
    ) -> VectorUpserted:
        """Each blob's checksum is verified first. An item that is there already as it is sent
        stays; without a collection it is `default`, which is sealed.
        """
        wanted = await read_json(request, VectorUpsert, UPSERT_LIMIT_BYTES)
        count = await vectors.upsert(principal, wanted.collection, wanted.epoch, wanted.items)
        return VectorUpserted(count)

    @post(
        "/search",
        status_code=HTTP_200_OK,
        summary="Rank a collection, or find a blob again",
        opt={"scope": "read"},
    )
    async def search(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        vectors: NamedDependency[Vectors],
    ) -> Response[VectorsFound | BlobsFound]:
        """`query` ranks a `dcpe` or `plain` collection by cosine and answers the larger of `top_k`
        and `overfetch`; a sealed one is 409, since only clients can search it. `query_blob` answers
        items of `default` with exactly these bytes (score 1), then the newest others (score 0).

        Who accepts `application/vnd.insula.found` first of all gets a ranking in bytes: a list of
        fields, each behind its length (4 bytes, big-endian). The first one is the answer in JSON,
        but without `sealed`; then come of each item its id and what is sealed.
        """
        wanted = await read_json(request, VectorSearch)
        if wanted.query_blob is not None:
            sha256 = hashlib.sha256(_alone(wanted)).hexdigest()
            alike = await vectors.alike(principal.user_id, sha256, wanted.top_k)
            return Response(BlobsFound.of(alike))
        return _found(request, await vectors.search(principal.user_id, _search(wanted)))

    @delete(status_code=HTTP_200_OK, summary="Delete items")
    async def remove(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        vectors: NamedDependency[Vectors],
    ) -> VectorsDeleted:
        """Tells how many of them were there."""
        wanted = await read_json(request, VectorsDelete)
        count = await vectors.remove(principal.user_id, wanted.collection, wanted.ids)
        return VectorsDeleted(count)

    @get("/{collection:str}/{item_id:str}", summary="An item")
    async def read(
        self,
        principal: NamedDependency[Principal],
        vectors: NamedDependency[Vectors],
        collection: FromPath[str],
        item_id: FromPath[str],
    ) -> VectorRead:
        return VectorRead.of(*await vectors.find(principal.user_id, collection, item_id))


def _found(request: AnyRequest, ranking: Ranking) -> Response[Any]:
    """In the form that the caller names first."""
    first = request.headers.get("accept", "").partition(",")[0].partition(";")[0]
    if first.strip().lower() == FOUND:
        return Response(framed(ranking), media_type=FOUND)
    return Response(VectorsFound.of(ranking))


def _alone(wanted: VectorSearch) -> bytes:
    """The blob to find again."""
    blob = wanted.query_blob
    if blob is None or wanted != VectorSearch(query_blob=blob, top_k=wanted.top_k):
        raise SearchInvalid("A query_blob is sought in `default` by itself; send top_k alone.")
    return blob


def _search(wanted: VectorSearch) -> Search:
    if wanted.query is None:
        raise SearchInvalid("Send a query: the vector as float32, little-endian, in base64.")
    return Search(
        wanted.collection or DEFAULT_NAME,
        wanted.query,
        max(wanted.top_k, wanted.overfetch),
        wanted.epoch,
        wanted.tags,
    )
