"""The usage journal: what survives, and what is read again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.modules.billing.adapters.journal import SEGMENT_BYTES, FileJournal, JournalFull
from tests.modules.billing.calls import usage


class TestAppend:
    def test_a_closed_segment_holds_the_lines_in_their_order(self, tmp_path):
        journal = FileJournal(tmp_path)
        written = [usage(model=str(n)) for n in range(5)]

        for one in written:
            journal.append(one)
        journal.close_segment()

        (segment,) = journal.closed_segments()
        assert journal.read(segment) == written

    def test_the_segment_being_written_is_nobodys_to_read(self, tmp_path):
        journal = FileJournal(tmp_path)
        journal.append(usage())

        assert list(journal.closed_segments()) == []
        assert list(FileJournal(tmp_path).closed_segments()) == []
        journal.close_segment()

    def test_a_full_disk_is_an_error_and_costs_no_other_line(self, tmp_path, monkeypatch):
        journal = FileJournal(tmp_path)
        journal.append(usage(model="before"))
        journal.close_segment()
        write = os.write
        monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:9]))

        with pytest.raises(JournalFull):
            journal.append(usage(model="lost"))

        monkeypatch.undo()
        journal.append(usage(model="after"))
        journal.close_segment()
        models = [one.model for name in journal.closed_segments() for one in journal.read(name)]
        assert models == ["before", "after"]
        assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl", ".jsonl"]

    def test_a_full_segment_is_followed_by_another(self, tmp_path):
        journal = FileJournal(tmp_path)
        count = SEGMENT_BYTES // 400 + 1

        for number in range(count):
            journal.append(usage(request_id="r" * 300, status=number))
        journal.close_segment()

        names = journal.closed_segments()
        found = [one.status for name in names for one in journal.read(name)]
        assert len(names) > 1
        assert found == list(range(count))


class TestCloseSegment:
    def test_an_empty_journal_makes_no_segment(self, tmp_path):
        journal = FileJournal(tmp_path)

        journal.close_segment()

        assert list(journal.closed_segments()) == []
        assert list(tmp_path.iterdir()) == []


class TestRead:
    def test_a_line_cut_short_by_a_crash_is_left_out(self, tmp_path):
        journal = FileJournal(tmp_path)
        journal.append(usage(model="whole"))
        journal.close_segment()
        (segment,) = journal.closed_segments()
        path = tmp_path / segment
        path.write_bytes(path.read_bytes() + b'{"id":"0192')

        assert [one.model for one in journal.read(segment)] == ["whole"]
        assert not path.with_suffix(".damaged").exists()

    def test_a_whole_line_that_is_not_ours_is_kept_as_evidence(self, tmp_path):
        path = tmp_path / "1.jsonl"
        path.write_bytes(json.dumps({"odd": 1}).encode() + b"\n")
        journal = FileJournal(tmp_path)

        assert journal.read("1.jsonl") == []
        journal.drop("1.jsonl")

        assert path.with_suffix(".damaged").read_bytes() == b'{"odd": 1}\n'

    def test_a_segment_that_another_process_has_stored_is_empty(self, tmp_path):
        assert FileJournal(tmp_path).read("gone.jsonl") == []


class TestClosedSegments:
    PROGRAM = """
import os, sys, pathlib
from app.modules.billing.adapters.journal import FileJournal
from tests.modules.billing.calls import usage
journal = FileJournal(pathlib.Path(sys.argv[1]))
journal.append(usage(model="of-the-dead"))
os.kill(os.getpid(), 9)
"""

    def test_a_killed_process_leaves_its_lines_to_the_next(self, tmp_path):
        killed = subprocess.run(
            [sys.executable, "-c", self.PROGRAM, str(tmp_path)], check=False, cwd=Path.cwd()
        )

        journal = FileJournal(tmp_path)

        assert killed.returncode == -9
        (segment,) = journal.closed_segments()
        assert [one.model for one in journal.read(segment)] == ["of-the-dead"]
