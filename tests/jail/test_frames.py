"""The wire between server and worker."""

import os
import signal
import socket
import threading

import pytest

from insula_jail import frames
from insula_jail.frames import BadFrame, Reader, Splitter, decode, dumps, encode, loads, pack


class TestEncode:
    def test_puts_four_bytes_of_length_before_the_json(self):
        assert encode({"t": "close"}) == b'\x00\x00\x00\x0d{"t":"close"}'

    def test_writes_other_alphabets_as_they_are(self):
        assert encode({"t": "é"})[4:] == '{"t":"é"}'.encode()

    def test_puts_another_character_in_the_place_of_half_a_surrogate_pair(self):
        assert encode({"t": "a\ud800b"})[4:] == '{"t":"a\ufffdb"}'.encode()

    def test_refuses_a_frame_above_the_limit(self):
        with pytest.raises(BadFrame, match="larger than 20"):
            encode({"t": "x" * 20}, 20)

    def test_refuses_what_is_no_number_in_json(self):
        with pytest.raises(ValueError, match="not JSON compliant"):
            encode({"t": float("nan")})

    def test_names_the_type_that_json_has_not(self):
        with pytest.raises(TypeError, match="type set has no form in JSON"):
            encode({"t": set()})

    def test_forgets_an_object_that_it_refused(self):
        outer = {"t": [object()]}
        with pytest.raises(TypeError):
            encode(outer)
        outer["t"].clear()

        assert encode(outer)[4:] == b'{"t":[]}'


class TestDecode:
    def test_reads_what_was_encoded(self):
        assert decode(encode({"t": "x", "n": [1, None, "é"]})[4:]) == {
            "t": "x",
            "n": [1, None, "é"],
        }

    @pytest.mark.parametrize(
        "payload",
        [b"", b"{", b"[]", b'{"t":1}', b"{}", b'{"t":"x"}{}', b"\xff", b"[" * 100_000],
        ids=["empty", "half", "list", "number", "untyped", "two", "not-utf8", "deep"],
    )
    def test_refuses_what_is_no_frame(self, payload):
        with pytest.raises(BadFrame):
            decode(payload)


class TestLoads:
    def test_reads_what_was_dumped(self):
        assert loads(dumps({"a": [1.5, True]})) == {"a": [1.5, True]}


class TestPack:
    def test_puts_the_length_before_json_that_is_made_already(self):
        assert pack(b'{"t":"x"}') == encode({"t": "x"})


class TestSplitter:
    def test_finds_frames_that_come_byte_by_byte(self):
        splitter = Splitter(100)
        stream = encode({"t": "a"}) + encode({"t": "b"})

        found = [payload for byte in stream for payload in splitter.feed(bytes([byte]))]

        assert found == [b'{"t":"a"}', b'{"t":"b"}']

    def test_finds_many_frames_in_one_piece(self):
        found = Splitter(100).feed(encode({"t": "a"}) * 10_000)

        assert len(found) == 10_000

    def test_refuses_a_length_above_the_limit_before_the_frame_has_come(self):
        with pytest.raises(BadFrame, match="4294967295 bytes"):
            Splitter(frames.MAX_OUT).feed(b"\xff\xff\xff\xff")

    def test_keeps_half_a_frame_for_later(self):
        splitter = Splitter(100)

        assert splitter.feed(encode({"t": "a"})[:-1]) == []
        assert splitter.feed(b"}") == [b'{"t":"a"}']


class TestReader:
    def test_waits_for_the_next_frame(self):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(encode({"t": "a"}) + encode({"t": "b"}))
            reader = Reader(ours.fileno(), 100)

            assert [reader.next(), reader.next()] == [b'{"t":"a"}', b'{"t":"b"}']

    def test_says_when_the_stream_has_ended(self):
        ours, theirs = socket.socketpair()
        theirs.close()
        with ours:
            assert Reader(ours.fileno(), 100).next() is None

    def test_goes_on_with_half_a_frame_after_a_handler_broke_off_the_wait(self):
        def interrupt(number, frame):
            raise InterruptedError

        ours, theirs = socket.socketpair()
        before = signal.signal(signal.SIGALRM, interrupt)
        with ours, theirs:
            reader = Reader(ours.fileno(), 100)
            theirs.sendall(encode({"t": "a"})[:6])
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(InterruptedError):
                reader.next()
            signal.signal(signal.SIGALRM, before)
            theirs.sendall(encode({"t": "a"})[6:])

            assert reader.next() == b'{"t":"a"}'


class TestWrite:
    def test_writes_more_than_a_pipe_holds(self):
        read_end, write_end = os.pipe()
        data = b"x" * 300_000
        writer = threading.Thread(target=frames.write, args=(write_end, data))
        writer.start()

        found = b""
        while len(found) < len(data):
            found += os.read(read_end, 65_536)
        writer.join()
        os.close(read_end)
        os.close(write_end)

        assert found == data
