"""One loaded MLX model: what it makes of prompts, and how its tokens and vectors are drawn."""

import secrets
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import jinja2
import mlx.core as mx
import mlx_lm
import msgspec
from huggingface_hub import constants
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import apply_top_p, make_logits_processors

from app.modules.routing.adapters.mlx_jobs import Chat, Refusal, ReplyJob, Sampling
from app.modules.routing.adapters.mlx_text import PlainVoice, Reply, Voice

# These say that they are typed, and are not.
_generate: Any = import_module("mlx_lm.generate")
_utils: Any = import_module("mlx_lm.utils")

DEFAULT_CONTEXT_TOKENS: Final = 32_768
# How much of a prompt is read before the others get a token and cancellations are looked at.
PREFILL_TOKENS: Final = 1_024
SEED_BITS: Final = 64
SMALL: Final = 1e-12


class Defaults(msgspec.Struct, frozen=True):
    """What the makers of a model recommend, in its ``generation_config.json``.

    A file that does not say whether to sample is written for servers, which do.
    """

    do_sample: bool = True
    temperature: float | None = None
    top_p: float | None = None


class Model:
    """Loads in the constructor, on the thread that will use it."""

    def __init__(self, name: str, cache_bytes: int) -> None:
        mx.set_cache_limit(cache_bytes)
        if mx.default_device() == mx.cpu:
            # MLX would compile kernels with the system's C++ compiler, into a folder in /tmp that
            # anybody can write to. It saves a second of start and costs little speed.
            mx.disable_compile()
        path = Path(name)
        if is_local := path.exists():
            constants.HF_HUB_OFFLINE = True
        elif path.is_absolute():
            raise FileNotFoundError(f"no such folder: {name}")
        loaded: Any = mlx_lm.load(name, return_config=True)
        self._model, self._tokenizer, config = loaded
        path = path if is_local else _utils.hf_repo_to_path(name)
        if not self._tokenizer.has_tool_calling:
            self._tokenizer = _utils.load_tokenizer(
                path, {"tool_parser_type": "json_tools"}, eos_token_ids=config.get("eos_token_id")
            )
        self._defaults = _defaults(path)
        self._context_tokens = _context_tokens(config)
        self._machine = _generate.make_text_state_machine(self._tokenizer)
        self._vocabulary = self._model(mx.array([[0]])).shape[-1]

    def batch(self, parallel: int) -> Any:
        """Return an empty ``BatchGenerator`` for up to ``parallel`` replies."""
        return _generate.BatchGenerator(
            self._model,
            stop_tokens=[(token,) for token in self._tokenizer.eos_token_ids],
            completion_batch_size=parallel,
            prefill_batch_size=1,
            prefill_step_size=PREFILL_TOKENS,
        )

    def insert(self, batch: Any, job: ReplyJob) -> tuple[int, Reply]:
        """Put a job into ``batch`` and return its number there."""
        prompt, voice = self._prompt(job.prompt)
        sampling = job.sampling
        room = self._context_tokens - len(prompt)
        if sampling.max_tokens is not None and sampling.max_tokens > room:
            text = f"The prompt has {len(prompt)} tokens and leaves room for {room} more."
            raise Refusal(text, param="max_tokens", code="context_length_exceeded")
        if any(token >= self._vocabulary for token in sampling.bias):
            raise Refusal("logit_bias names an unknown token.", param="logit_bias")
        (number,) = batch.insert(
            [prompt],
            max_tokens=[sampling.max_tokens or room],
            samplers=[self._sampler(sampling)],
            logits_processors=[make_logits_processors(logit_bias=sampling.bias)],
        )
        return number, Reply(job, self._tokenizer, prompt, voice)

    def inputs(self, given: list[str] | list[list[int]]) -> list[list[int]]:
        """Return the tokens of what is to be embedded."""
        _body(self._model)
        return [self._checked(self._tokens(text), "input") for text in given]

    def vector(self, tokens: list[int]) -> Iterator[list[float] | None]:
        """Yield with each piece of the text that is read, and at the end its vector.

        That is the mean of the last hidden states, of length one.
        """
        body, cache = _body(self._model), make_prompt_cache(self._model)
        total = mx.array(0.0)
        for begin in range(0, len(tokens), PREFILL_TOKENS):
            piece = mx.array([tokens[begin : begin + PREFILL_TOKENS]])
            total = total + body(piece, cache=cache)[0].astype(mx.float32).sum(axis=0)
            mx.eval(total)
            yield None
        row: Any = (total / mx.maximum(mx.linalg.norm(total), SMALL)).tolist()
        yield list(row)

    def _prompt(self, given: Chat | str | list[int]) -> tuple[list[int], Voice | PlainVoice]:
        if not isinstance(given, Chat):
            return self._checked(self._tokens(given), "prompt"), PlainVoice()
        prompt, voice = self._render(given)
        return self._checked(prompt, "messages"), voice

    def _render(self, chat: Chat) -> tuple[list[int], Voice]:
        tokenizer = self._tokenizer
        if not tokenizer.has_chat_template:
            raise Refusal("This model has no chat template; use /v1/completions.")
        try:
            prompt: list[int] = tokenizer.apply_chat_template(
                chat.messages,
                tools=chat.tools,
                add_generation_prompt=True,
                enable_thinking=chat.may_think and tokenizer.has_thinking,
            )
        except (jinja2.TemplateError, LookupError, TypeError, ValueError) as error:
            text = f"The model's chat template refuses these messages: {error}"
            raise Refusal(text, param="messages") from None
        state = tokenizer.response_initial_state or "normal"
        if tokenizer.has_thinking:
            opened, closed = tokenizer.rfind_think_start(prompt), tokenizer.rfind_think_end(prompt)
            state = "reasoning" if opened > closed else state
        if chat.must_call and state == "normal":
            # The only way to make a model call: its answer has begun with the start of a call.
            prompt += tokenizer.encode(tokenizer.tool_call_start, add_special_tokens=False)
            state = "tool"
        return prompt, Voice(tokenizer, self._machine, state, chat.tools)

    def _tokens(self, given: str | list[int]) -> list[int]:
        return list(self._tokenizer.encode(given)) if isinstance(given, str) else given

    def _checked(self, tokens: list[int], param: str) -> list[int]:
        if not tokens:
            raise Refusal(f"{param} is empty.", param=param)
        if len(tokens) >= self._context_tokens:
            text = f"{param} has {len(tokens)} tokens; the limit is {self._context_tokens - 1}."
            raise Refusal(text, param=param, code="context_length_exceeded")
        if max(tokens) >= self._vocabulary or min(tokens) < 0:
            raise Refusal(f"{param} has a token that the model does not know.", param=param)
        return tokens

    def _sampler(self, sampling: Sampling) -> Callable[[mx.array], mx.array]:
        defaults = self._defaults
        usual = defaults.temperature if defaults.do_sample else 0.0
        temperature = _first(sampling.temperature, usual)
        top_p = _first(sampling.top_p, defaults.top_p)
        if temperature == 0 or top_p == 0:
            return _greedy
        seed = sampling.seed
        return _random(temperature, top_p, secrets.randbits(SEED_BITS) if seed is None else seed)


def _first(*values: float | None) -> float:
    """Return the first value that is there, or OpenAI's default, which is one."""
    return next((value for value in values if value is not None), 1.0)


def _greedy(logprobs: mx.array) -> mx.array:
    return mx.argmax(logprobs, axis=-1)


def _random(temperature: float, top_p: float, seed: int) -> Callable[[mx.array], mx.array]:
    """Sample with a key of its own, so that a seed holds whoever else is in the batch."""
    key = mx.random.key(seed % 2**SEED_BITS)

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal key
        key, now = mx.random.split(key)
        scaled = logprobs / temperature
        if top_p < 1:
            scaled -= mx.logsumexp(scaled, axis=-1, keepdims=True)
            scaled = apply_top_p(scaled, top_p)
        return mx.random.categorical(scaled, key=now)

    return sample


def _body(model: Any) -> Any:
    """Return the model without its last projection, by the names that mlx-lm uses."""
    owner = getattr(model, "language_model", model)
    for name in ("model", "backbone", "transformer"):
        if callable(body := getattr(owner, name, None)):
            return body
    raise Refusal("This model makes no embeddings.", param="model")


def _defaults(path: Path) -> Defaults:
    try:
        text = (path / "generation_config.json").read_bytes()
        return msgspec.json.decode(text, type=Defaults)
    except (OSError, msgspec.DecodeError):
        return Defaults()


def _context_tokens(config: dict[str, Any]) -> int:
    for place in (config, config.get("text_config") or {}):
        if isinstance(found := place.get("max_position_embeddings"), int):
            return found
    return DEFAULT_CONTEXT_TOKENS
