"""Scripts that print more, or otherwise, than anybody wants to read."""

import pytest
import pytest_asyncio

from app.kernel.errors import Conflict, Unavailable
from app.modules.runs.api import News
from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.domain.redaction import Redactor
from app.modules.sandbox.ports import Printed, TemplateSpec
from app.modules.sandbox.service.output import EVENTS_LIMIT, Output, tell_after_s
from tests.modules.sandbox.besieged import WIRE, besieged, unharmed
from tests.modules.sandbox.jails import (
    TIERS,
    OneFolder,
    open_runner,
    passable_folder,
    run_script,
)
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KB, MB = 1024, 1024 * 1024
FLOOD = "The script printed more than 16 MiB."
LIBC = "import ctypes\nlibc = ctypes.CDLL(None)\n"


@pytest.fixture(params=TIERS, scope="module")
def tier(request):
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tier):
    async with besieged(tier) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def safe(desk):
    async with unharmed(desk):
        yield


@pytest.mark.usefixtures("safe")
class TestFlood:
    @pytest.mark.parametrize(
        "attack",
        [
            "print('x' * 100_000_000)",
            "import os\nwhile True: os.write(1, b'x\\n' * 9000); os.write(2, b'\\0' * 9000)",
            f"{LIBC}while True: libc.puts(b'x' * 9000)",
        ],
        ids=["line", "raw", "c"],
    )
    async def test_is_stopped_and_kept_in_part(self, desk, attack):
        read = await desk.run(attack)

        assert (read["status"], read["error"]) == ("error", FLOOD)
        assert read["stdout_truncated"]
        assert len(read["stdout"]) < MB + KB

    async def test_of_another_process_is_stopped_with_it(self, desk, tier):
        read = await desk.run("import subprocess\nsubprocess.run(['yes'])")

        assert read["status"] == "error"
        assert read["error"] == FLOOD or tier == "B"


@pytest.mark.usefixtures("safe")
class TestOutput:
    async def test_of_c_code_that_was_never_flushed_is_there(self, desk):
        read = await desk.run(f"{LIBC}libc.puts(b'from C')\nlibc.printf(b'and %d', 42)")

        assert read["stdout"] == "from C\nand 42"

    async def test_of_c_code_comes_before_the_question_that_follows_it(self, desk):
        execution_id, _ = await desk.asking(f"{LIBC}libc.puts(b'from C')\nllm.complete('?')")

        read = await desk.read(execution_id)

        await desk.cancel(execution_id)
        assert read["stdout"] == "from C\n"

    async def test_of_c_code_that_an_import_has_printed_is_nobodys(self, tier):
        with passable_folder() as folder:
            packages = folder / "packages"
            packages.mkdir()
            (packages / "chatty.py").write_text(f"{LIBC}libc.puts(b'imported')")
            async with open_runner(tier, folder, OneFolder(packages)) as runner:
                spec = TemplateSpec("chatty", packages=("chatty",), preload=("chatty",))
                template = await runner.prepare(spec)

                outcome = await run_script(template, "print('script')")

        assert outcome.stdout == b"script\n"

    async def test_of_half_surrogates_is_shown_escaped(self, desk):
        read = await desk.run(r"print('\ud800', '\udfff', '\x00', '\x1b[1m')")

        assert read["stdout"] == "\\ud800 \\udfff \ufffd \x1b[1m\n"

    async def test_after_a_closed_stream_is_missed_by_nobody(self, desk):
        read = await desk.run("print('before', flush=True)\nimport os\nos.close(1)\nset_result(1)")

        assert (read["status"], read["stdout"], read["result"]) == ("completed", "before\n", 1)

    async def test_of_either_stream_keeps_its_order(self, desk):
        code = "import sys\nfor n in range(999): print(n); print(n, file=sys.stderr)"

        read = await desk.run(code)

        lines = "".join(f"{n}\n" for n in range(999))
        assert (read["stdout"], read["stderr"]) == (lines, lines)

    async def test_after_a_forged_end_is_not_waited_for(self, desk):
        code = f"{WIRE}print('before', flush=True); forge('done', **DONE)\nwhile True: print('x')"

        read = await desk.run(code)

        assert (read["status"], read["stdout"].partition("\n")[0]) == ("completed", "before")


class Log:
    """A run's log that a test can take away. ``failing``: what the next words end with."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.failing: list[Exception] = []

    async def say(self, *news: News, write: object = None) -> int:
        if self.failing:
            raise self.failing.pop()
        self.said += [one.data["text"] for one in news]
        return len(self.said)


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def output(log):
    return Output(log, Redactor({}), Limits())


class TestTelling:
    async def test_is_done_soon_after_something_was_printed(self, output, log):
        output.feed(Printed("stdout", b"soon"))

        await until(lambda: log.said == ["soon"])

    async def test_gets_slower_the_longer_a_script_prints(self):
        assert [tell_after_s(n) for n in (0, 49, 50, 100)] == [0.1, 0.1, 0.2, 0.4]
        assert tell_after_s(EVENTS_LIMIT) == 2.0

    async def test_has_an_end_where_the_log_is_long(self, output, log):
        for _ in range(EVENTS_LIMIT + 100):
            output.feed(Printed("stdout", b"x"))
            await output.tell()

        assert len(log.said) == EVENTS_LIMIT
        assert output.text("stdout") == "x" * (EVENTS_LIMIT + 100)

    async def test_leaves_nothing_out_where_the_database_was_away(self, output, log):
        log.failing.append(Unavailable("The database is away."))
        output.feed(Printed("stdout", b"first "))
        await output.tell()
        output.feed(Printed("stdout", b"second"))

        await output.tell()

        assert log.said == ["first second"]

    async def test_is_tried_again_when_nothing_more_is_printed(self, output, log):
        log.failing.append(Unavailable("The database is away."))
        output.feed(Printed("stdout", b"kept"))
        await output.tell()

        await until(lambda: log.said == ["kept"])

    async def test_is_over_when_the_run_is_lost(self, output, log):
        log.failing.append(Conflict("The run was taken over."))
        output.feed(Printed("stdout", b"lost"))
        await output.tell()
        output.feed(Printed("stdout", b" too"))

        await output.tell()

        assert log.said == []
        assert output.text("stdout") == "lost too"

    async def test_is_over_at_the_end(self, output, log):
        output.feed(Printed("stdout", b"last"))
        output.finish()

        await output.settle()

        assert (log.said, output.text("stdout")) == ([], "last")
