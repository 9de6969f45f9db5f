"""Frames that a script forges: what its worker could not say there is the end of it."""

import pytest
import pytest_asyncio

from tests.modules.sandbox.besieged import WIRE, besieged, unharmed

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("safe")]


# What a frame may say is the same in every tier.
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk():
    async with besieged("auto") as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def safe(desk):
    async with unharmed(desk):
        yield


class TestFrames:
    """What a worker would not say there ends its script, and says to its author what it was."""

    @pytest.mark.parametrize(
        ("attack", "error"),
        [
            (r"say(b'\x80\x00\xff')", "what is no JSON"),
            ("say(b'')", "what is no JSON"),
            ("say(b'{}')", "not the form"),
            ("say(b'[]')", "not the form"),
            ("""say(b'{"t":{"t":"done"}}')""", "not the form"),
            ("forge('done', **{**DONE, 'exit_code': 2**40})", "not the form"),
            ("forge('done', **{**DONE, 'memory': []})", "not the form"),
            ("forge('done', **DONE, result=float('nan'))", "what is no JSON"),
            ("forge('done', **DONE, result=2**64)", "over 64 bits"),
            ("forge('done', **DONE, result='x' * 1_100_000)", "result is larger"),
            ('say(b\'{"t":"done","result":\' + b\'[\' * 2_000_000)', "not the form"),
            (
                'say(b\'{"t":"done","ok":true,"has_result":true,"result":\''
                " + b'[' * 99 + b']' * 99 + b'}')",
                "nested deeper",
            ),
            ("forge('llm', seq=7, prompt='?')", "not counted 1, 2, 3"),
            ("forge('llm', seq=0, prompt='?')", "not counted 1, 2, 3"),
            ("forge('llm', seq=1, prompt='x' * 70_000)", "prompt is larger"),
            ("forge('llm', seq=1, prompt=['?'])", "not the form"),
            ("forge('artifact', name='../x', data='')", "a path"),
            ("forge('artifact', name='x', data='%%%')", "not the form"),
            ("forge('artifact', name='x', data='eA==', more=True)", "too small"),
            (
                "forge('artifact', name='x', data='A' * 40_000, more=True)\nforge('done', **DONE)",
                "not finished",
            ),
            ("for n in range(17): forge('artifact', name='x', data='')", "more than 16 files"),
            ('for n in range(10_000): say(b\'{"t":"?"}\')', "more than 100 unknown frames"),
            ("for n in range(10_000): forge('ready')", "a second time"),
            ("for n in range(101): forge('?', x='x' * 200_000)", "unknown frames"),
        ],
    )
    async def test_out_of_place_are_refused(self, desk, attack, error):
        read = await desk.run(f"{WIRE}{attack}\ntime.sleep(60)")

        assert read["status"] == "error"
        assert error in read["error"]

    async def test_with_a_key_twice_mean_the_last(self, desk):
        twice = b'{"t":"llm","t":"done","ok":false,"ok":true,"has_result":true,"result":1}'

        read = await desk.run(f"{WIRE}say({twice!r})\ntime.sleep(60)")

        assert (read["status"], read["result"]) == ("completed", 1)

    async def test_with_what_no_database_keeps_are_mended(self, desk):
        forged = rb'{"t":"done","ok":true,"has_result":true,"result":"\u0000\ud800\udc00\udc00"}'

        read = await desk.run(f"{WIRE}say({forged!r})\ntime.sleep(60)")

        assert read["result"] == "\ufffd\U00010000\ufffd"

    async def test_after_a_forged_end_are_not_heard(self, desk):
        forged = "forge('done', **DONE, result='forged')"

        read = await desk.run(f"{WIRE}{forged}\nset_result('true'); memory.set('a', 'b', 1)")

        assert (read["status"], read["result"]) == ("completed", "forged")
        assert read["memory_updates"] == {}

    async def test_of_another_kind_between_question_and_answer_are_refused(self, desk):
        attack = "forge('llm', seq=1, prompt='?'); forge('ready')"
        execution_id, _ = await desk.asking(f"{WIRE}{attack}\ntime.sleep(60)")

        await desk.respond(execution_id, "answer")
        read = await desk.waited(execution_id)

        assert (read["status"], "a second time" in read["error"]) == ("error", True)
