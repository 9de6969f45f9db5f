"""Which version may come next, and what a reader has seen."""

from datetime import UTC, datetime

import pytest

from app.modules.storage.domain.backups import (
    BackupVersionStale,
    BackupWrite,
    http_date,
    is_repeated,
    is_unmodified,
    require_later,
)

AT = datetime(2030, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
WRITE = BackupWrite(5, 1000, 1)


class TestRequireLater:
    @pytest.mark.parametrize("highest", [None, 4])
    def test_takes_a_version_above_the_highest(self, highest):
        require_later(WRITE, highest)

    @pytest.mark.parametrize("highest", [5, 6])
    def test_refuses_any_other_and_tells_the_highest(self, highest):
        with pytest.raises(BackupVersionStale) as raised:
            require_later(WRITE, highest)

        assert raised.value.extra == {"version": highest}


class TestIsRepeated:
    def test_when_all_is_the_same(self):
        assert is_repeated(WRITE, "aa", (WRITE, "aa"))

    @pytest.mark.parametrize(
        "there",
        [None, (WRITE, "bb"), (BackupWrite(5, 1001, 1), "aa"), (BackupWrite(5, 1000, 2), "aa")],
    )
    def test_not_when_anything_differs(self, there):
        assert not is_repeated(WRITE, "aa", there)


class TestIsUnmodified:
    @pytest.mark.parametrize(
        "since",
        [
            "Wed, 02 Jan 2030 03:04:05 GMT",
            "Wed, 02 Jan 2030 04:04:05 +0100",
            "Wed, 02 Jan 2030 03:04:05 -0000",
            "Thu, 03 Jan 2030 03:04:05 GMT",
        ],
    )
    def test_since_the_same_second_or_later(self, since):
        assert is_unmodified(since, AT)

    def test_not_since_the_second_before(self):
        assert not is_unmodified("Wed, 02 Jan 2030 03:04:04 GMT", AT)

    @pytest.mark.parametrize("since", [None, "", "yesterday", "Wed, 99 Jan 2030 03:04:05 GMT"])
    def test_not_where_nothing_sensible_is_said(self, since):
        assert not is_unmodified(since, AT)

    def test_since_what_was_told_before(self):
        assert is_unmodified(http_date(AT), AT)
