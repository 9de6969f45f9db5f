"""What a sender says about its bytes, and whether they are those."""

import base64
import hashlib

import pytest

from app.modules.storage.domain.digests import (
    BodyTruncated,
    DigestMalformed,
    DigestMismatch,
    Expected,
    content_digest,
    parse_content_digest,
    parse_hex,
    same,
)

HELLO = hashlib.sha256(b"hello")
HEX = HELLO.hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
BASE64 = base64.b64encode(HELLO.digest()).decode()


class TestParseHex:
    def test_takes_both_cases(self):
        assert parse_hex(HEX.upper()) == HEX

    @pytest.mark.parametrize("text", ["", HEX[:-1], HEX + "0", "g" * 64, HEX + "\n", "é" * 64])
    def test_refuses_what_is_no_sha256(self, text):
        with pytest.raises(DigestMalformed):
            parse_hex(text)


class TestParseContentDigest:
    def test_finds_ours_among_others(self):
        assert parse_content_digest(f"sha-512=:AAAA:, sha-256=:{BASE64}:") == HEX

    def test_knows_no_other_algorithm(self):
        assert parse_content_digest("sha-512=:AAAA:") is None

    @pytest.mark.parametrize(
        "text",
        ["", "sha-256", f"sha-256={BASE64}", f"sha-256=:{BASE64[:-4]}:", "sha-256=:!!!!:", "=::"],
    )
    def test_refuses_what_is_malformed(self, text):
        with pytest.raises(DigestMalformed):
            parse_content_digest(text)

    def test_is_what_is_written(self):
        assert parse_content_digest(content_digest(HEX)) == HEX


class TestExpected:
    def test_takes_what_was_announced(self):
        Expected(5, (HEX, HEX.upper())).verify(5, HEX)

    @pytest.mark.parametrize("size_bytes", [4, 6])
    def test_refuses_another_size(self, size_bytes):
        with pytest.raises(BodyTruncated):
            Expected(5).verify(size_bytes, HEX)

    @pytest.mark.parametrize("given", [(OTHER,), (HEX, OTHER), (OTHER, HEX)])
    def test_refuses_bytes_that_one_digest_is_not_of(self, given):
        with pytest.raises(DigestMismatch):
            Expected(5, given).verify(5, HEX)


def test_digests_are_the_same_in_both_cases():
    assert same(HEX, HEX.upper())
    assert not same(HEX, OTHER)
