"""A script that asks a language model, which somebody outside asks for it."""

import textwrap

import pytest

from tests.jail.desk import Desk, attempt


@pytest.fixture
def desk(tmp_path):
    with Desk(tmp_path) as opened:
        yield opened


class TestLlm:
    def test_waits_for_the_answer(self, desk):
        desk.hear("ready")
        desk.job("print(llm.complete('why?'), end='')")
        asked = desk.hear("llm")
        desk.send(t="llm_reply", seq=1, text="because\ud83d")
        desk.done()

        assert asked == {"t": "llm", "seq": 1, "prompt": "why?", "model": "default"}
        assert desk.out == "because\ufffd"

    def test_can_be_called_like_a_function(self, desk):
        desk.hear("ready")
        desk.job("print(llm('why?', model='big'), end='')")
        asked = desk.hear("llm")
        desk.send(t="llm_reply", seq=1, text="")
        desk.done()

        assert (asked["prompt"], asked["model"], desk.out) == ("why?", "big", "")

    def test_takes_an_answer_of_a_megabyte(self, desk):
        desk.hear("ready")
        desk.job("print(len(llm('why?')))")
        desk.hear("llm")
        desk.send(t="llm_reply", seq=1, text="x" * 2**20)
        desk.done()

        assert desk.out == f"{2**20}\n"

    def test_shows_what_was_printed_before_it_asks(self, desk):
        desk.hear("ready")
        desk.job("print('before', end='')\nllm('why?')")

        desk.hear("llm")

        assert desk.out == "before"

    def test_counts_questions(self, desk):
        desk.hear("ready")
        desk.job("for n in range(3): print(llm(str(n)))")
        asked = []
        for seq in (1, 2, 3):
            asked.append(desk.hear("llm"))
            desk.send(t="llm_reply", seq=seq, text=f"answer {seq}")
        desk.done()

        assert [(one["seq"], one["prompt"]) for one in asked] == [(1, "0"), (2, "1"), (3, "2")]
        assert desk.out == "answer 1\nanswer 2\nanswer 3\n"

    def test_ignores_answers_to_other_questions(self, desk):
        desk.hear("ready")
        desk.job("print(llm('why?'), end='')")
        desk.hear("llm")
        desk.send(t="llm_reply", seq=2, text="early")
        desk.send(t="llm_reply", seq=1, text="right")
        desk.done()

        assert desk.out == "right"

    def test_raises_what_a_script_can_catch_when_there_is_no_answer(self, desk):
        desk.hear("ready")
        desk.job(attempt("llm('why?')"))
        desk.hear("llm")
        desk.send(t="llm_error", seq=1, message="No answer came in time.")
        desk.done()

        assert desk.out == "LLMError|No answer came in time."

    def test_raises_an_error_that_is_a_runtime_error_by_name(self, desk):
        desk.run(
            "import airlock\nprint(airlock.LLMError is LLMError, LLMError.__mro__[1], LLMError)"
        )

        assert desk.out == "True <class 'RuntimeError'> <class 'airlock.LLMError'>\n"

    def test_refuses_a_prompt_that_is_too_large(self, desk):
        desk.run(attempt("llm('x' * 2**20)"))

        assert desk.out == "LLMError|The prompt is larger than 64 KiB."

    @pytest.mark.parametrize("prompt", ["None", "b'x'", "['x']", "1"])
    def test_refuses_a_prompt_that_is_no_text(self, desk, prompt):
        desk.run(attempt(f"llm({prompt})"))

        assert desk.out.startswith("TypeError|The prompt must be text")

    def test_refuses_more_questions_than_a_script_may_ask(self, desk):
        desk.hear("ready")
        desk.job("llm('1')\n" + attempt("llm('2')") + attempt("llm('3')"), limits={"llm_calls": 1})
        desk.hear("llm")
        desk.send(t="llm_reply", seq=1, text="")
        desk.done()

        assert desk.out == "LLMError|A script may ask a model 1 times." * 2

    def test_asks_for_one_thread_after_the_other(self, desk):
        code = """
            import threading
            said = []
            def ask(n): said.append((n, llm(f"from {n}")))
            threads = [threading.Thread(target=ask, args=(n,)) for n in range(5)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            set_result(sorted(said))
        """
        desk.hear("ready")
        desk.job(textwrap.dedent(code))
        for seq in range(1, 6):
            asked = desk.hear("llm")
            assert asked["seq"] == seq
            desk.send(t="llm_reply", seq=seq, text=asked["prompt"].upper())

        assert desk.done()["result"] == [[n, f"FROM {n}"] for n in range(5)]

    def test_survives_being_caught_with_everything_else(self, desk):
        code = """
            try:
                llm("why?")
            except BaseException as error:
                print(type(error).__name__)
            print(llm("again?"))
        """
        desk.hear("ready")
        desk.job(textwrap.dedent(code))
        desk.hear("llm")
        desk.send(t="llm_error", seq=1, message="no")
        desk.hear("llm")
        desk.send(t="llm_reply", seq=2, text="yes")
        desk.done()

        assert desk.out == "LLMError\nyes\n"

    def test_asks_again_only_when_a_question_that_was_given_up_is_answered(self, desk):
        code = """
            import signal
            def give_up(*_): raise TimeoutError
            signal.signal(signal.SIGALRM, give_up)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            try:
                llm("first")
            except TimeoutError:
                print("gave up", flush=True)
            print(llm("second"))
        """
        desk.hear("ready")
        desk.job(textwrap.dedent(code))
        desk.hear("llm")
        desk.await_output("gave up\n")
        desk.send(t="llm_reply", seq=1, text="late")
        desk.hear("llm")
        desk.send(t="llm_reply", seq=2, text="right")
        desk.done()

        assert desk.out == "gave up\nright\n"

    def test_cannot_be_asked_by_a_copy_of_the_process(self, desk):
        desk.run(
            "import os\nif os.fork() == 0:\n"
            + textwrap.indent(attempt("llm('x')"), "    ")
            + "else: os.wait()"
        )

        assert desk.out.startswith("LLMError|This works in the script's own process only")
