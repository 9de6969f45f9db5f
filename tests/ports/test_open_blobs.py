"""The choice of a blob store, by one variable."""

from app.adapters.blobs import open_blobs
from app.adapters.blobs.local import LocalBlobStore
from app.kernel.settings import Secret
from app.settings import HouseSettings


class TestOpenBlobs:
    def test_keeps_to_the_data_folder_without_a_bucket(self, tmp_path):
        store = open_blobs(HouseSettings(data=str(tmp_path)))

        assert isinstance(store, LocalBlobStore)

    async def test_goes_to_the_bucket_with_one(self, s3):
        settings = HouseSettings(
            s3_bucket=s3.bucket,
            s3_endpoint=s3.endpoint,
            s3_access_key=Secret(s3.access_key),
            s3_secret_key=Secret(s3.secret_key),
        )

        store = open_blobs(settings)

        await store.ping()
        await store.close()
