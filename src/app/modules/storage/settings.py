"""The environment of storage."""

from typing import Annotated

from msgspec import Meta

from app.kernel.settings import Settings, env


class StorageSettings(Settings, frozen=True, rename=env("STORAGE")):
    """How large bodies may be, where small ones lie, and how long what is gone is remembered."""

    inline_bytes: Annotated[
        int,
        Meta(ge=0, le=65_536, description="Bodies up to this size lie in the database; 0: none."),
    ] = 16_384
    max_object_bytes: Annotated[
        int, Meta(ge=1024, le=2**40, description="Largest record or backup.")
    ] = 5 * 2**30
    part_bytes: Annotated[
        int,
        Meta(ge=65_536, le=2**30, description="Size of an upload's parts where none is asked."),
    ] = 8 * 2**20
    upload_hours: Annotated[
        int, Meta(ge=1, le=24 * 30, description="An upload session ends after so long.")
    ] = 24
    tombstone_days: Annotated[
        int,
        Meta(ge=1, le=3650, description="A device away for longer reads everything anew."),
    ] = 90
    grace_s: Annotated[
        int,
        Meta(ge=0, le=86_400, description="Replaced bytes stay for whoever still reads them."),
    ] = 900
