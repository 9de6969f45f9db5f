"""Folders that scripts have written in are removed, whatever they made of them."""

import os
import subprocess
import sys
from pathlib import Path

from app.modules.sandbox.adapters.jail.scratch import (
    ScratchFolder,
    make_scratch,
    remove_tree,
    sweep,
)

DEPTH = 3000


def dead_server(parent: Path) -> Path:
    """A folder whose server has ended without removing it."""
    code = (
        "import sys; from pathlib import Path\n"
        "from app.modules.sandbox.adapters.jail.scratch import ScratchFolder\n"
        "print(ScratchFolder.claim(Path(sys.argv[1])).make_room())"
    )
    command = [sys.executable, "-c", code, str(parent)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Path(done.stdout.strip())


class TestRemoveTree:
    def test_removes_folders_deeper_than_any_stack(self, tmp_path: Path) -> None:
        top = tmp_path / "top"
        top.mkdir()
        inner = os.open(top, os.O_RDONLY)
        for _ in range(DEPTH):
            os.mkdir("down", dir_fd=inner)
            deeper = os.open("down", os.O_RDONLY, dir_fd=inner)
            os.close(inner)
            inner = deeper
        os.close(inner)

        remove_tree(top)

        assert not top.exists()

    def test_follows_no_link(self, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "file").write_text("kept")
        top = tmp_path / "top"
        (top / "sub").mkdir(parents=True)
        (top / "link").symlink_to(precious)
        (top / "sub" / "link").symlink_to(precious / "file")

        remove_tree(top)

        assert not top.exists()
        assert (precious / "file").read_text() == "kept"

    def test_does_not_remove_what_a_link_in_its_place_leads_to(self, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "file").write_text("kept")
        top = tmp_path / "top"
        top.symlink_to(precious)

        remove_tree(top)

        assert (precious / "file").exists()

    def test_removes_what_its_owner_made_unreadable(self, tmp_path: Path) -> None:
        top = tmp_path / "top"
        (top / "locked" / "inner").mkdir(parents=True)
        (top / "locked" / "inner").chmod(0)
        (top / "locked").chmod(0)

        remove_tree(top)

        assert not top.exists()

    def test_removes_fifos_and_sockets(self, tmp_path: Path) -> None:
        top = tmp_path / "top"
        top.mkdir()
        os.mkfifo(top / "fifo")

        remove_tree(top)

        assert not top.exists()


class TestScratchFolder:
    def test_gives_each_worker_a_folder_of_its_own(self, tmp_path: Path) -> None:
        scratch = ScratchFolder.claim(tmp_path)
        room = scratch.make_room()

        folders = {make_scratch(room, 1, None), make_scratch(room, 2, None)}

        assert len(folders) == 2
        assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
        scratch.release()

    def test_leaves_nothing_when_released(self, tmp_path: Path) -> None:
        scratch = ScratchFolder.claim(tmp_path)
        (make_scratch(scratch.make_room(), 1, None) / "file").write_text("x")

        scratch.release()

        assert list(tmp_path.iterdir()) == []


class TestSweep:
    def test_removes_what_a_dead_server_left(self, tmp_path: Path) -> None:
        room = dead_server(tmp_path)
        assert room.exists()

        sweep(tmp_path)

        assert list(tmp_path.iterdir()) == []

    def test_removes_a_folder_whose_lock_is_missing(self, tmp_path: Path) -> None:
        room = dead_server(tmp_path)
        room.parent.with_suffix(".lock").unlink()

        sweep(tmp_path)

        assert list(tmp_path.iterdir()) == []

    def test_spares_a_server_that_lives(self, tmp_path: Path) -> None:
        scratch = ScratchFolder.claim(tmp_path)
        room = scratch.make_room()

        sweep(tmp_path)

        assert room.exists()
        scratch.release()

    def test_spares_what_is_none_of_its_business(self, tmp_path: Path) -> None:
        (tmp_path / "notes").write_text("mine")

        sweep(tmp_path)

        assert (tmp_path / "notes").exists()

    def test_is_quiet_where_there_was_never_a_folder(self, tmp_path: Path) -> None:
        sweep(tmp_path / "missing")

        assert not (tmp_path / "missing").exists()
