"""The packets of an attached container, taken apart however they were cut."""

import pytest

from app.modules.sandbox.adapters.docker.multiplex import (
    STDERR,
    STDOUT,
    Demultiplexer,
    StreamBroken,
)

PACKETS = [(STDOUT, b"ready"), (STDERR, b"a warning\n"), (STDOUT, b""), (STDOUT, b"\x01\x00" * 5)]


def packed(packets: list[tuple[int, bytes]]) -> bytes:
    return b"".join(
        bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data for stream, data in packets
    )


def joined(pieces: list[bytes]) -> dict[int, bytes]:
    """Feed the pieces and join what comes out, by stream."""
    found = {STDOUT: b"", STDERR: b""}
    packets = Demultiplexer()
    for piece in pieces:
        for stream, data in packets.feed(piece):
            found[stream] += data
    return found


class TestFeed:
    @pytest.mark.parametrize("at", range(len(packed(PACKETS)) + 1))
    def test_finds_the_streams_wherever_the_bytes_are_cut(self, at: int):
        data = packed(PACKETS)

        found = joined([data[:at], data[at:]])

        assert found == {STDOUT: b"ready" + b"\x01\x00" * 5, STDERR: b"a warning\n"}

    def test_finds_the_streams_in_single_bytes(self):
        data = packed(PACKETS)

        found = joined([bytes([byte]) for byte in data])

        assert found == {STDOUT: b"ready" + b"\x01\x00" * 5, STDERR: b"a warning\n"}

    def test_keeps_the_order_of_the_streams(self):
        found = list(Demultiplexer().feed(packed(PACKETS)))

        assert found == [packet for packet in PACKETS if packet[1]]

    def test_gives_a_packet_before_all_of_it_has_come(self):
        data = packed([(STDOUT, b"x" * 100)])

        found = list(Demultiplexer().feed(data[:50]))

        assert found == [(STDOUT, b"x" * 42)]

    @pytest.mark.parametrize("header", ["0300000000000001", "0100010000000001", "485454502f312e31"])
    def test_refuses_what_is_no_header(self, header: str):
        packets = Demultiplexer()

        with pytest.raises(StreamBroken):
            list(packets.feed(bytes.fromhex(header)))
