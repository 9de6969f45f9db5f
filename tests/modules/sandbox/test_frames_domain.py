"""What a worker may say, and in which order."""

import base64
import json
import re
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.sandbox.domain.frames import (
    DEPTH_LIMIT,
    ERROR_LIMIT_CHARS,
    FRAME_LIMIT_BYTES,
    KEYS_LIMIT,
    PART_LEAST_BYTES,
    PART_LIMIT_BYTES,
    UNKNOWN_LIMIT,
    ArtifactPart,
    Dialogue,
    Done,
    LlmAsked,
    ProtocolBroken,
    Ready,
    is_file_name,
)
from app.modules.sandbox.domain.limits import Limits

LIMITS = Limits(
    result_kb=1024, memory_state_kb=64, prompt_kb=1, llm_calls=3, artifacts=2, artifact_mb=1
)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20
)


def frame(t, **members):
    return json.dumps({"t": t, **members}).encode()


def asked(seq=1, prompt="hi", **members):
    return frame("llm", seq=seq, prompt=prompt, **members)


def part(name="a.txt", data=b"hello", *, more=False):
    return frame("artifact", name=name, data=base64.b64encode(data).decode(), more=more)


def done(**members):
    return frame("done", **{"ok": True, "exit_code": 0, "error": None, **members})


def done_with(raw):
    """A ``done`` whose result is written as it is given."""
    head = b'{"t":"done","ok":true,"exit_code":0,"error":null,"has_result":true,"result":'
    return head + raw + b',"memory":{}}'


@pytest.fixture
def dialogue():
    return Dialogue(LIMITS)


def refused(dialogue, said):
    with pytest.raises(ProtocolBroken) as caught:
        dialogue.accept(said)
    return str(caught.value)


class TestAccept:
    def test_reads_that_a_worker_is_ready(self, dialogue):
        assert dialogue.accept(frame("ready", walls={"landlock": True})) == Ready(
            {"landlock": True}
        )

    def test_reads_a_question_to_a_model(self, dialogue):
        assert dialogue.accept(asked(model="gpt")) == LlmAsked(1, "hi", "gpt")

    def test_asks_the_default_model_where_none_is_named(self, dialogue):
        assert dialogue.accept(asked()).model == "default"

    def test_reads_a_piece_of_a_file(self, dialogue):
        assert dialogue.accept(part()) == ArtifactPart("a.txt", b"hello", more=False)

    def test_reads_the_end(self, dialogue):
        said = done(has_result=True, result={"a": [1, None]}, memory={"notes.last": "x"})

        assert dialogue.accept(said) == Done(
            True, 0, None, True, {"a": [1, None]}, {"notes.last": "x"}
        )

    def test_reads_an_end_with_nothing_to_tell(self, dialogue):
        assert dialogue.accept(b'{"t":"done","ok":false}') == Done(
            False, None, None, False, None, {}
        )

    def test_has_no_result_where_the_script_set_none(self, dialogue):
        assert dialogue.accept(done(has_result=False, result=7)).result is None

    def test_passes_a_whole_conversation(self, dialogue):
        dialogue.accept(frame("ready"))
        for seq in (1, 2, 3):
            dialogue.accept(asked(seq))
            dialogue.answered()
        dialogue.accept(part(data=b"x" * PART_LEAST_BYTES, more=True))
        dialogue.accept(part(data=b""))
        dialogue.accept(part("b.txt"))

        assert dialogue.accept(done()).ok

    @given(values)
    def test_gives_back_every_value_that_can_be_kept(self, value):
        found = Dialogue(LIMITS).accept(done(has_result=True, result=value))

        assert found.result == value

    @given(st.binary(max_size=200))
    def test_breaks_in_one_way_only(self, noise):
        dialogue = Dialogue(LIMITS)

        for said in (noise, b'{"t":"done","ok":true,"has_result":true,"result":' + noise + b"}"):
            try:
                found = dialogue.accept(said)
            except ProtocolBroken:
                continue
            assert found is None or json.dumps(found.result, allow_nan=False)

    def test_takes_tens_of_microseconds_for_an_ordinary_end(self):
        said = done(has_result=True, result={"rows": [[1, 2.5, "three"]] * 10}, memory={"a.b": 1})
        plain = _seconds(lambda: json.loads(said))

        assert _seconds(lambda: Dialogue(LIMITS).accept(said)) < 8 * plain


def _seconds(work):
    """The best of some runs."""
    found = []
    for _ in range(20):
        started = process_time()
        for _ in range(50):
            work()
        found.append(process_time() - started)
    return min(found)


class TestOrder:
    def test_nothing_follows_the_end(self, dialogue):
        dialogue.accept(done())

        assert "after it had said that it was done" in refused(dialogue, frame("whatever"))

    def test_a_worker_is_ready_once_and_first(self, dialogue):
        dialogue.accept(asked())

        assert "second time" in refused(dialogue, frame("ready"))

    def test_a_second_question_waits_for_the_first_answer(self, dialogue):
        dialogue.accept(asked(1))

        assert "still open" in refused(dialogue, asked(2))

    @pytest.mark.parametrize("seq", [0, 2, -1, 2**70])
    def test_questions_are_counted_from_one(self, dialogue, seq):
        assert "1, 2, 3" in refused(dialogue, asked(seq))

    def test_a_question_is_not_asked_again(self, dialogue):
        dialogue.accept(asked(1))
        dialogue.answered()

        assert "1, 2, 3" in refused(dialogue, asked(1))

    def test_says_which_question_is_open(self, dialogue):
        before = dialogue.open_seq
        dialogue.accept(asked())
        asking = dialogue.open_seq
        dialogue.answered()

        assert (before, asking, dialogue.open_seq) == (None, 1, None)

    def test_a_file_may_come_while_a_question_is_open(self, dialogue):
        dialogue.accept(asked())

        assert dialogue.accept(part()).data == b"hello"

    def test_a_script_may_end_while_a_question_is_open(self, dialogue):
        dialogue.accept(asked())

        assert dialogue.accept(done()).ok

    @pytest.mark.parametrize("said", [asked(), done(), frame("ready"), part("b.txt")])
    def test_a_file_is_finished_before_anything_else(self, dialogue, said):
        dialogue.accept(part(data=b"x" * PART_LEAST_BYTES, more=True))

        assert "not finished" in refused(dialogue, said)

    def test_what_is_not_known_is_passed_over(self, dialogue):
        assert dialogue.accept(frame("hello", data=[1])) is None

    def test_what_is_not_known_is_not_passed_over_for_ever(self, dialogue):
        for _ in range(UNKNOWN_LIMIT):
            dialogue.accept(frame("hello"))

        assert "unknown" in refused(dialogue, frame("hello"))


class TestForm:
    @pytest.mark.parametrize(
        "said",
        [
            b"",
            b"null",
            b"[]",
            b"{}",
            b'{"t":1}',
            b'{"t":"done"}',
            b'{"t":"done","ok":1}',
            b'{"t":"done","ok":true',
            b'{"t":"done","ok":true}{"t":"done","ok":true}',
            b'{"t":"done","ok":true,"memory":[]}',
            b'{"t":"done","ok":true,"exit_code":1e3}',
            b'{"t":"done","ok":true,"exit_code":99999999999}',
            b'{"t":"llm","seq":true,"prompt":"hi"}',
            b'{"t":"llm","seq":1,"prompt":7}',
            b'{"t":"artifact","name":"a","data":"not base64"}',
            b'{"t":"ready","walls":{"net":"yes"}}',
            b"\xff\xfe\x00",
        ],
    )
    def test_is_that_of_a_frame(self, dialogue, said):
        assert refused(dialogue, said).startswith("The worker said what")

    def test_is_not_larger_than_a_frame(self, dialogue):
        assert "larger than" in refused(dialogue, b" " * (FRAME_LIMIT_BYTES + 1))

    def test_quotes_nothing_of_what_was_said(self, dialogue):
        text = refused(dialogue, b'{"t":"done","ok":"sesame","sesame":sesame}')

        assert "sesame" not in text

    def test_the_last_one_of_two_members_counts(self, dialogue):
        found = dialogue.accept(done_with(b'{"a":1,"a":2}'))

        assert found.result == {"a": 2}


class TestLimits:
    def test_prompts_are_measured_in_bytes(self, dialogue):
        fits = "\u00e9" * 512

        assert dialogue.accept(asked(prompt=fits)).prompt == fits
        dialogue.answered()
        assert "1 KiB" in refused(dialogue, asked(2, prompt=fits + "."))

    def test_calls_of_a_model_are_counted(self):
        dialogue = Dialogue(Limits(llm_calls=0))

        assert "more than 0 times" in refused(dialogue, asked())

    def test_a_models_name_is_short(self, dialogue):
        assert "form" in refused(dialogue, asked(model="m" * 201))

    def test_files_are_counted(self, dialogue):
        dialogue.accept(part())
        dialogue.accept(part())

        assert "more than 2 files" in refused(dialogue, part())

    def test_a_file_is_measured_over_all_its_pieces(self, dialogue):
        for _ in range(2):
            dialogue.accept(part(data=b"x" * PART_LIMIT_BYTES, more=True))

        assert "1 MiB" in refused(dialogue, part(data=b"x"))

    def test_a_second_file_has_room_of_its_own(self, dialogue):
        for name in ("a", "b"):
            dialogue.accept(part(name, b"x" * PART_LIMIT_BYTES, more=True))
            found = dialogue.accept(part(name, b"x" * PART_LIMIT_BYTES))

        assert found.name == "b"

    def test_a_piece_is_not_larger_than_one(self, dialogue):
        assert "too large" in refused(dialogue, part(data=b"x" * (PART_LIMIT_BYTES + 1)))

    def test_a_file_does_not_come_byte_by_byte(self, dialogue):
        assert "too small" in refused(dialogue, part(data=b"x", more=True))

    def test_a_result_is_measured_as_it_was_sent(self):
        dialogue = Dialogue(Limits(result_kb=1))

        assert "1 KiB" in refused(dialogue, done(has_result=True, result="x" * 1023))
        assert dialogue.accept(done(has_result=True, result="x" * 1022)).has_result

    def test_a_memory_is_measured_as_it_was_sent(self):
        dialogue = Dialogue(Limits(memory_state_kb=1))

        assert "memory is larger" in refused(dialogue, done(memory={"a": "x" * 1020}))

    def test_a_key_of_the_memory_is_short(self, dialogue):
        assert "256 characters" in refused(dialogue, done(memory={"k" * 257: 1}))

    def test_an_error_is_cut_by_the_worker(self, dialogue):
        assert "form" in refused(dialogue, done(error="x" * (ERROR_LIMIT_CHARS + 1)))

    def test_values_are_nested_to_a_depth(self, dialogue):
        too_deep = b"[" * (DEPTH_LIMIT + 1) + b"]" * (DEPTH_LIMIT + 1)

        assert "deeper than 64" in refused(dialogue, done_with(too_deep))
        assert dialogue.accept(done_with(too_deep[1:-1])).has_result

    @pytest.mark.parametrize("depth", [1000, 1_000_000])
    def test_no_depth_overflows_the_stack(self, dialogue, depth):
        assert refused(dialogue, done_with(b"[" * depth))
        assert refused(dialogue, b'{"t":"x","y":' + b"[" * depth)

    @pytest.mark.parametrize("item", ['"%d":0', '"%d":[]', '"%d":{}'])
    def test_keys_and_what_they_lead_to_are_counted(self, dialogue, item):
        count = KEYS_LIMIT + 1 if item.endswith("0") else KEYS_LIMIT // 2 + 1
        body = ",".join(item % key for key in range(count))

        assert "100000 keys" in refused(dialogue, done_with(f"{{{body}}}".encode()))

    def test_a_list_of_many_numbers_is_an_ordinary_result(self, dialogue):
        body = ",".join(["7"] * (KEYS_LIMIT + 1))

        assert len(dialogue.accept(done_with(f"[{body}]".encode())).result) == KEYS_LIMIT + 1

    def test_lists_of_nothing_are_counted(self, dialogue):
        body = ",".join(["[]"] * (KEYS_LIMIT + 1))

        assert "100000 keys" in refused(dialogue, done_with(f"[{body}]".encode()))


class TestNames:
    @pytest.mark.parametrize(
        "name", ["a", "plot 1.png", ".env", "...", "\u00fc\U0001f600", "n" * 128]
    )
    def test_of_files_are_names(self, dialogue, name):
        assert is_file_name(name)
        assert dialogue.accept(part(name)).name == name

    @pytest.mark.parametrize(
        "name",
        ["", ".", "..", "a/b", "/etc/passwd", "a\\b", "a\nb", "\x7f", "\x85", "\0", "n" * 129],
    )
    def test_of_files_are_no_paths(self, name):
        assert not is_file_name(name)

    def test_that_are_paths_stop_the_worker(self, dialogue):
        assert "a path" in refused(dialogue, part("../a"))


class TestStorable:
    @pytest.mark.parametrize(
        "number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 5000]
    )
    def test_numbers_are_json(self, dialogue, number):
        assert refused(dialogue, done_with(number))
        assert refused(dialogue, done_with(b'{"a":[' + number + b"]}"))

    @pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
    @pytest.mark.parametrize("shape", [b"%d", b"[%d]", b'{"a":[{"b":%d}]}'])
    def test_integers_have_64_bits(self, dialogue, number, shape):
        assert "64 bits" in refused(dialogue, done_with(shape % number))

    @pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 0.1234567890123456789])
    def test_numbers_of_many_digits_are_kept(self, dialogue, number):
        assert dialogue.accept(done_with(str(number).encode())).result == number

    def test_digits_in_a_text_are_no_number(self, dialogue):
        assert dialogue.accept(done_with(b'"%s"' % (b"9" * 30))).result == "9" * 30

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            (rb"\u0000", "\ufffd"),
            (rb"\ud800", "\ufffd"),
            (rb"\uDC00x", "\ufffdx"),
            (rb"\ud83dA", "\ufffdA"),
            (rb"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
            (rb"\ud83d\ude00\ude00", "\U0001f600\ufffd"),
            (rb"\ude00\ud83d", "\ufffd\ufffd"),
            (rb"\\ud800\ud800", "\\ud800\ufffd"),
            (rb"\\\ud800", "\\\ufffd"),
            (rb"\\u0000", "\\u0000"),
            (rb"\\\\u0000\u0000", "\\\\u0000\ufffd"),
            (b"\xed\xa0\x80", "\ufffd"),
            (b"\xff", "\ufffd"),
            (b"caf\xc3", "caf\ufffd"),
        ],
    )
    def test_what_no_database_keeps_is_replaced(self, written, read):
        in_result = Dialogue(LIMITS).accept(done_with(b'{"' + written + b'":["' + written + b'"]}'))
        in_prompt = Dialogue(LIMITS).accept(b'{"t":"llm","seq":1,"prompt":"' + written + b'"}')
        in_memory = Dialogue(LIMITS).accept(
            b'{"t":"done","ok":true,"memory":{"' + written + b'":"' + written + b'"}}'
        )

        assert in_result.result == {read: [read]}
        assert in_prompt.prompt == read
        assert in_memory.memory == {read: read}

    def test_a_bare_control_character_is_no_json(self, dialogue):
        assert refused(dialogue, done_with(b'"\x00"'))

    @given(st.text(st.sampled_from('\0\\"uA\ud83d\ude00\u00e9'), max_size=12))
    def test_every_text_of_a_script_is_kept_but_for_that(self, text):
        found = Dialogue(LIMITS).accept(done(has_result=True, result={text: text})).result

        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        kept = re.sub("[\0\ud800-\udfff]", "\ufffd", paired)
        assert found == {kept: kept}
