"""Where the files lie that scripts leave."""

from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from app.kernel.errors import NotFound
from app.kernel.ports import BlobStore
from app.modules.sandbox.domain.executions import Artifact

FOLDER: Final = "sandbox"


class NoSuchArtifact(NotFound):
    """The execution has left no file of this name."""

    title = "No such artifact"


class Shelf:
    """One execution's files, by their place in its list: their names never become paths."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def put(self, run_id: UUID, place: int, data: bytes) -> None:
        await self._blobs.put(_key(run_id, place), _whole(data))

    def read(
        self, run_id: UUID, artifacts: tuple[Artifact, ...], name: str
    ) -> AsyncIterator[bytes]:
        for place, artifact in enumerate(artifacts):
            if artifact.name == name:
                return self._blobs.get(_key(run_id, place))
        raise NoSuchArtifact(f"This execution has left no file {name!r}.")

    async def forget(self, run_id: UUID) -> None:
        keys = [key async for key in self._blobs.keys(f"{FOLDER}/{run_id}/")]
        for key in keys:
            await self._blobs.delete(key)


def _key(run_id: UUID, place: int) -> str:
    return f"{FOLDER}/{run_id}/{place}"


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
