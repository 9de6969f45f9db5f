"""Chooses the blob store."""

from typing import TYPE_CHECKING

from app.adapters.blobs.local import LocalBlobStore
from app.settings import HouseSettings

if TYPE_CHECKING:
    from app.adapters.blobs.s3 import S3BlobStore


def open_blobs(settings: HouseSettings) -> "LocalBlobStore | S3BlobStore":
    if not settings.s3_bucket:
        return LocalBlobStore(settings.data_dir / "blobs")
    from app.adapters.blobs.s3 import S3BlobStore, S3Options

    return S3BlobStore(
        S3Options(
            bucket=settings.s3_bucket,
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            access_key=settings.s3_access_key or "",
            secret_key=settings.s3_secret_key or "",
            sse=settings.s3_sse,
        )
    )
