"""``/api/v1/storage/collections``."""

from litestar import Controller, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath

from app.modules.auth.api import Principal
from app.modules.storage.controllers.reading import AnyRequest, read_json
from app.modules.storage.schemas.vectors import CollectionList, CollectionPut, CollectionRead
from app.modules.storage.service.vectors import Collections


class CollectionController(Controller):
    path = "/api/v1/storage/collections"
    tags = ("storage",)

    @get(summary="Your collections of vectors, by name")
    async def list(
        self, principal: NamedDependency[Principal], collections: NamedDependency[Collections]
    ) -> CollectionList:
        found = await collections.all(principal.user_id)
        return CollectionList([CollectionRead.of(row) for row in found])

    @put("/{name:str}", summary="Make a collection, or take it to a higher epoch")
    async def put(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        collections: NamedDependency[Collections],
        name: FromPath[str],
    ) -> CollectionRead:
        """`sealed`: the server sees no vector, clients search. `dcpe`: it sees noised ones, and
        what is alike; 428 until `leakage_ack` says that you know. `plain`: it sees everything. Mode
        and dimension stay what they are; at a higher epoch, items of earlier ones stay until they
        are put again.
        """
        wanted = await read_json(request, CollectionPut)
        row = await collections.put(principal, name, wanted.wish, wanted.leakage_ack)
        return CollectionRead.of(row)

    @get("/{name:str}", summary="A collection")
    async def read(
        self,
        principal: NamedDependency[Principal],
        collections: NamedDependency[Collections],
        name: FromPath[str],
    ) -> CollectionRead:
        return CollectionRead.of(await collections.find(principal.user_id, name))

    @delete("/{name:str}", summary="Delete a collection and every vector in it")
    async def remove(
        self,
        principal: NamedDependency[Principal],
        collections: NamedDependency[Collections],
        name: FromPath[str],
    ) -> None:
        await collections.remove(principal.user_id, name)
