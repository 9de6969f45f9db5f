"""From a model's raw tokens to what OpenAI calls content, reasoning and tool calls."""

from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import msgspec

from app.modules.routing.adapters.mlx_jobs import Delta, Ended, ReplyJob, ToolCall

# Enough of the prompt to decode the first token as the tokenizer would in the middle of a text.
CONTEXT_TOKENS: Final = 6
UNFINISHED: Final = "\ufffd"
# Bytes that have not become a character after so many tokens never will.
UNFINISHED_TOKENS: Final = 4


class Decoder:
    """Turns tokens into text one by one, whole characters only, spaces kept."""

    def __init__(self, tokenizer: Any, prompt: list[int]) -> None:
        self._tokenizer = tokenizer
        self._recent = prompt[-CONTEXT_TOKENS:]
        self._told = len(self._recent)

    def add(self, token: int) -> str:
        """Return the text that ``token`` completes, if any."""
        self._recent.append(token)
        text = self._pending()
        waiting = len(self._recent) - self._told
        is_unfinished = text.endswith(UNFINISHED) and waiting < UNFINISHED_TOKENS
        return "" if is_unfinished else self._keep(text)

    def rest(self) -> str:
        """Return what never became a whole character."""
        return self._keep(self._pending())

    def _pending(self) -> str:
        known = self._decode(self._recent[: self._told])
        return self._decode(self._recent)[len(known) :]

    def _keep(self, text: str) -> str:
        if text:
            # What was pending is the context of what comes next.
            self._recent = self._recent[self._told :]
            self._told = len(self._recent)
        return text

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


class StopFilter:
    """Lets text through up to the first stop, wherever the tokens cut it."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.is_stopped = False

    def feed(self, text: str) -> str:
        """Return what is safe to show; what may be the start of a stop waits."""
        held = self._held + text
        found = [at for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            self._held = ""
            return held[: min(found)]
        keep = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def rest(self) -> str:
        """Return what waited for a stop that did not come."""
        held, self._held = self._held, ""
        return held


class Voice:
    """Tells content, reasoning and tool calls apart, by a ``TextStateMachine`` of mlx-lm."""

    def __init__(self, tokenizer: Any, machine: Any, state: str, tools: list[Any] | None) -> None:
        self._tokenizer = tokenizer
        self._machine = machine
        self._state = machine.make_state(state)
        self._tools = tools
        self._call = ""
        self._is_fresh = False
        self.has_called = False

    @property
    def is_reasoning(self) -> bool:
        return bool(self._state[0] == "reasoning")

    def feed(self, text: str) -> Iterator[Delta]:
        self._state, segments = self._machine.split(self._state, text)
        *passed, (name, open_text) = segments
        for section, told in passed:
            yield from self._tell(section, told)
            if section == "tool":
                yield from self._close_call(self._tokenizer.tool_call_end)
            self._is_fresh = True
        yield from self._tell(name, open_text)

    def close(self) -> Iterator[Delta]:
        """Return what was held back, at the end of the answer."""
        self._state, held, section = self._machine.flush(self._state)
        yield from self._tell(section or "normal", held)
        if section == "tool":
            yield from self._close_call("")

    def _tell(self, section: str, text: str) -> Iterator[Delta]:
        if section == "tool":
            self._call += text
        elif section == "reasoning":
            yield from (Delta(reasoning=text),) if text else ()
        else:
            # Templates put line breaks around a thought and between calls; nobody said them.
            text = text.lstrip() if self._is_fresh else text
            self._is_fresh = self._is_fresh and not text
            yield from (Delta(content=text),) if text else ()

    def _close_call(self, end: str) -> Iterator[Delta]:
        text, self._call = self._call, ""
        calls = parse_calls(self._tokenizer, text, self._tools) if self._tools else []
        if not calls:
            yield Delta(content=self._tokenizer.tool_call_start + text + end)
        for call in calls:
            self.has_called = True
            yield Delta(call=call)


class PlainVoice:
    """The voice of a completion, which has no roles, thoughts or tools."""

    has_called = False
    is_reasoning = False

    def feed(self, text: str) -> Iterator[Delta]:
        yield from (Delta(content=text),) if text else ()

    def close(self) -> Iterator[Delta]:
        return iter(())


class Reply:
    """One answer in the making."""

    def __init__(
        self, job: ReplyJob, tokenizer: Any, prompt: list[int], voice: Voice | PlainVoice
    ) -> None:
        self.job = job
        self._prompt_tokens = len(prompt)
        self._decoder = Decoder(tokenizer, prompt)
        self._voice = voice
        self._stop = StopFilter(job.sampling.stops)
        self._tokens = 0
        self._reasoning_tokens = 0

    def advance(self, token: int, reason: str | None) -> bool:
        """Tell what ``token`` adds. A ``reason`` makes it the last; return whether it was."""
        self._tokens += 1
        self._reasoning_tokens += self._voice.is_reasoning
        shown = self._stop.feed(self._text(token, reason))
        if reason and not self._stop.is_stopped:
            shown += self._stop.rest()
        for delta in self._voice.feed(shown):
            self.job.tell(delta)
        if self._stop.is_stopped:
            reason = "stop"
        if reason:
            self._end(reason)
        return reason is not None

    def _text(self, token: int, reason: str | None) -> str:
        # The token that ends an answer is no part of its text.
        text = "" if reason == "stop" else self._decoder.add(token)
        return text + self._decoder.rest() if reason else text

    def _end(self, reason: str) -> None:
        for delta in self._voice.close():
            self.job.tell(delta)
        if self._voice.has_called and reason == "stop":
            reason = "tool_calls"
        self.job.tell(Ended(reason, self._prompt_tokens, self._tokens, self._reasoning_tokens))


def parse_calls(tokenizer: Any, text: str, tools: list[Any] | None) -> list[ToolCall]:
    """Read the calls in a tool section; none when it is no call, whatever else it is."""
    try:
        parsed = tokenizer.tool_parser(text, tools)
    except Exception:  # noqa: BLE001 - a dozen parsers raise what they like on a model's nonsense
        return []
    calls = [_call(found) for found in (parsed if isinstance(parsed, list) else [parsed])]
    return [call for call in calls if call is not None]


def _call(found: Any) -> ToolCall | None:
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    arguments = found.get("arguments") or {}
    if not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments).decode()
    return ToolCall(str(found.get("id") or f"call_{uuid4().hex[:24]}"), found["name"], arguments)


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of ``text`` may be the start of ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
