"""What only a folder can do to its blobs: vanish, and keep what a crash left."""

import os
from pathlib import Path

import pytest

from app.adapters.blobs import local as local_module
from app.adapters.blobs.local import STALE_AFTER_S, LocalBlobStore
from app.kernel.errors import Unavailable
from tests.ports.test_blob_store import TEXT, sent


@pytest.fixture
def local(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


class TestLocalBlobStore:
    async def test_says_when_the_folder_is_gone(self, local, tmp_path):
        (tmp_path / "blobs" / "incoming~").rmdir()

        with pytest.raises(Unavailable):
            await local.put("blob", sent(TEXT))

    async def test_sweeps_away_what_an_old_crash_left(self, tmp_path):
        LocalBlobStore(tmp_path)
        old, young = (tmp_path / "incoming~" / name for name in ("old", "young"))
        young.write_bytes(b"still being sent")
        old.write_bytes(b"half a blob")
        past = old.stat().st_mtime - STALE_AFTER_S - 60
        os.utime(old, (past, past))

        LocalBlobStore(tmp_path)

        assert not old.exists()
        assert young.exists()

    async def test_sweeps_also_while_it_is_used(self, local, tmp_path, monkeypatch):
        left = tmp_path / "blobs" / "incoming~" / "left"
        left.write_bytes(b"half a blob")
        monkeypatch.setattr(local_module, "STALE_AFTER_S", -60)

        await local.put("blob", sent(TEXT))

        assert not left.exists()

    async def test_says_when_a_folder_cannot_be_made(self, local, tmp_path):
        (tmp_path / "blobs" / "owner").write_bytes(b"a file")

        with pytest.raises(Unavailable):
            await local.put("owner/blob", sent(TEXT))

        assert list((tmp_path / "blobs" / "incoming~").iterdir()) == []

    async def test_keeps_inside_its_folder(self, local, tmp_path):
        await local.put("owner/blob", sent(TEXT))

        (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert file.relative_to(tmp_path).match("blobs/owner/*~/blob")
