"""Smart routing: what kind of task a request is, and which model suits it.

By rules alone: no model is asked, and nothing but the messages and the tools is looked at.
"""

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, get_args

import msgspec

from app.kernel.errors import Invalid
from app.modules.routing.domain.cards import Card
from app.modules.routing.domain.names import ModelNotFound
from app.modules.routing.domain.preferences import micros_per_million
from app.modules.routing.domain.prices import Price, blended_micros

Category = Literal[
    "simple_chat",
    "general_chat",
    "coding",
    "analysis",
    "creative_writing",
    "summarization",
    "translation",
    "math",
    "vision",
    "function_calling",
    "long_context",
]
Strategy = Literal["cost-optimized", "quality-first", "local-only", "pass-through"]

CATEGORIES: Final[frozenset[Category]] = frozenset(get_args(Category))
STRATEGIES: Final[tuple[Strategy, ...]] = get_args(Strategy)
LONG_TEXT_CHARS: Final = 50_000
# A model whose window is known to be smaller is no model for a long context.
LONG_CONTEXT_TOKENS: Final = 32_000
READ_CHARS: Final = 2_000
GREETING_LIMIT_CHARS: Final = 60
HEADER_LIMIT_CHARS: Final = 300
QUALITIES: Final = ("good", "great", "excellent")
NEEDS: Final[dict[Category, str]] = {"vision": "vision", "function_calling": "tools"}
IMAGE_PARTS: Final = frozenset({"image_url", "input_image", "image"})

GREETING: Final = re.compile(
    r"(?:hi|hello|hey|hallo|hola|bonjour|ciao|good (?:morning|afternoon|evening|night)"
    r"|how are you|what'?s up|thanks|thank you|bye|goodbye)(?:[ ,]+[\w']+){0,2}[ .,!?]*",
    re.I,
)
# In the order in which they are asked; English only.
RULES: Final[tuple[tuple[Category, re.Pattern[str]], ...]] = (
    (
        "coding",
        re.compile(
            r"```|\b(?:code|coding|function|debug|bug|refactor|compil(?:e|er)|traceback|regex"
            r"|unit tests?|python|javascript|typescript|java|rust|golang|sql|html|css|bash"
            r"|algorithm|api)\b|\bc\+\+|^\s*(?:def|class|import|#include)\b",
            re.I | re.M,
        ),
    ),
    (
        "math",
        re.compile(
            r"\b(?:solve|calculate|compute|equation|integral|derivative|theorem|prove|matrix"
            r"|probability|algebra|geometry|square root)\b|\d\s*[-+*/^=]\s*\d",
            re.I,
        ),
    ),
    ("translation", re.compile(r"\btranslat\w*|\bhow do (?:you|i) say\b", re.I)),
    (
        "summarization",
        re.compile(r"\bsummar\w*|\btl;?dr\b|\bkey (?:points|takeaways)\b|\bcondense\b", re.I),
    ),
    (
        "creative_writing",
        re.compile(
            r"\b(?:story|stories|poems?|poetry|haiku|lyrics|novel|screenplay|fiction|limerick"
            r"|brainstorm|slogan)\b",
            re.I,
        ),
    ),
    (
        "analysis",
        re.compile(
            r"\banaly[sz]\w*|\bcompar(?:e|ison)\b|\bevaluate\b|\bassess\b|\bpros and cons\b"
            r"|\btrade-?offs?\b",
            re.I,
        ),
    ),
)


class NoSuitableModel(ModelNotFound):
    """No model is left that the strategy allows."""

    title = "No model fits"


class BadStrategy(Invalid):
    """A header that steers smart routing has a value that cannot be used."""

    title = "Invalid header"


class ModelCard(msgspec.Struct, frozen=True):
    """A model that smart routing may pick. ``tasks`` are those for which it is the default."""

    name: str
    upstream: str
    price: Price | None = None
    card: Card = Card()
    is_local: bool = False
    tasks: frozenset[Category] = frozenset()

    @property
    def is_free(self) -> bool:
        return self.price is not None and self.price.input_micros == self.price.output_micros == 0

    @property
    def rank(self) -> int:
        return QUALITIES.index(self.card.quality)

    def suits(self, category: Category) -> bool:
        """Whether nothing that is known of the model speaks against it."""
        known, window = self.card.capabilities, self.card.context_tokens
        if known and category in NEEDS and NEEDS[category] not in known:
            return False
        return category != "long_context" or not 0 < window < LONG_CONTEXT_TOKENS


class _Part(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""


class _Message(msgspec.Struct, frozen=True):
    role: str = ""
    content: str | list[_Part] | None = None

    @property
    def texts(self) -> list[str]:
        if isinstance(self.content, str):
            return [self.content]
        return [part.text for part in self.content or ()]

    @property
    def has_image(self) -> bool:
        parts = self.content if isinstance(self.content, list) else ()
        return any(part.type in IMAGE_PARTS for part in parts)


class _Chat(msgspec.Struct, frozen=True):
    messages: list[_Message] = []
    tools: list[msgspec.Raw] | None = None


_chat = msgspec.json.Decoder(_Chat)


def classify(body: bytes) -> Category:
    """Say what kind of task a chat request is; ``general_chat`` where nothing tells.

    Tools come before images, images before length, and length before what the last message of
    the user says, of which the beginning is read.
    """
    try:
        chat = _chat.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "general_chat"
    if chat.tools:
        return "function_calling"
    if any(message.has_image for message in chat.messages):
        return "vision"
    if sum(len(text) for message in chat.messages for text in message.texts) > LONG_TEXT_CHARS:
        return "long_context"
    said = next((m.texts for m in reversed(chat.messages) if m.role == "user"), [])
    return _kind(" ".join(said)[:READ_CHARS].strip())


def pick(
    category: Category,
    strategy: Strategy,
    cards: Sequence[ModelCard],
    max_cost_micros: int | None = None,
) -> tuple[ModelCard, str]:
    """Pick a model, and say why; ``NoSuitableModel`` when the strategy leaves none.

    ``max_cost_micros`` is the highest price of a million input tokens. For ``pass-through`` the
    cards are those that the request names, and the first is taken.
    """
    suited = [card for card in cards if card.suits(category)]
    within = [card for card in suited if _is_within(card, max_cost_micros)]
    if strategy == "pass-through":
        within = [card for card in cards[:1] if _is_within(card, max_cost_micros)]
    elif strategy == "local-only":
        within = [card for card in within if card.is_local]
    if not within:
        raise _none_left(category, strategy, max_cost_micros)
    if strategy == "pass-through":
        return within[0], "named by the request"
    if strategy == "cost-optimized":
        return _cheapest(category, within)
    place = "local model" if strategy == "local-only" else "model"
    return min(within, key=_by_quality), f"best {place} for {category}"


def read_strategy(text: str) -> Strategy | None:
    """Read ``X-Routing-Strategy``; ``None`` where it says nothing."""
    given = text.strip().lower()
    if not given:
        return None
    for strategy in STRATEGIES:
        if strategy == given:
            return strategy
    known = ", ".join(STRATEGIES)
    raise BadStrategy(f"X-Routing-Strategy is one of {known}.", param="X-Routing-Strategy")


def read_max_cost(text: str) -> int | None:
    """Read ``X-Max-Cost``, a price for a million input tokens, in micro-units."""
    if not text.strip():
        return None
    try:
        micros = micros_per_million(Decimal(text.strip()[:READ_CHARS]))
    except InvalidOperation:
        micros = None
    if micros is None:
        raise BadStrategy("X-Max-Cost is a price for a million input tokens.", param="X-Max-Cost")
    return micros


def route_headers(
    *, model: str, provider: str, reason: str, price: Price | None, category: Category | None = None
) -> tuple[tuple[str, str], ...]:
    """Tell where a call went and why. What is not known has no header.

    The cost is that of a million input tokens, which is what ``X-Max-Cost`` bounds.
    """
    told = {
        "X-Route-Model": model,
        "X-Route-Provider": provider,
        "X-Route-Reason": reason,
        "X-Classification": category or "",
        "X-Estimated-Cost-Per-1M": _decimal(price.input_micros) if price else "",
    }
    return tuple((name, _printable(value)) for name, value in told.items() if value)


def _kind(text: str) -> Category:
    if len(text) < GREETING_LIMIT_CHARS and GREETING.fullmatch(text):
        return "simple_chat"
    for category, pattern in RULES:
        if pattern.search(text):
            return category
    return "general_chat"


def _is_within(card: ModelCard, max_cost_micros: int | None) -> bool:
    """What has no price is never known to be within a limit."""
    if max_cost_micros is None:
        return True
    return card.price is not None and card.price.input_micros <= max_cost_micros


def _cheapest(category: Category, cards: Sequence[ModelCard]) -> tuple[ModelCard, str]:
    """The task's default; else the best free one; else the cheapest good enough; else any."""
    defaults = [card for card in cards if category in card.tasks]
    if defaults:
        return defaults[0], f"default for {category}"
    free = [card for card in cards if card.is_free]
    if free:
        return min(free, key=_by_quality), f"best free model for {category}"
    great = [card for card in cards if card.rank >= QUALITIES.index("great")]
    known = [card for card in great if card.price is not None]
    if known:
        return min(known, key=_cost), f"cheapest great model for {category}"
    return min(cards, key=_cost), f"cheapest model for {category}"


def _by_quality(card: ModelCard) -> tuple[int, float]:
    return -card.rank, _cost(card)


def _cost(card: ModelCard) -> float:
    return blended_micros(card.price) if card.price else float("inf")


def _none_left(
    category: Category, strategy: Strategy, max_cost_micros: int | None
) -> NoSuitableModel:
    limit = "" if max_cost_micros is None else " within X-Max-Cost"
    if strategy == "local-only":
        text = f"No local model suits {category}{limit}; start one, or choose another strategy."
    else:
        text = f"No model{limit} suits {category} by {strategy}; GET /v1/models lists them all."
    return NoSuitableModel(text, param="model")


def _decimal(micros: int) -> str:
    """Micro-units as a decimal number, without needless zeros."""
    return f"{micros // 1_000_000}.{micros % 1_000_000:06d}".rstrip("0").rstrip(".")


def _printable(text: str) -> str:
    """What a header may carry: visible ASCII and blanks, and not too much of it."""
    kept = (char if char.isascii() and char.isprintable() else "?" for char in text)
    return "".join(kept)[:HEADER_LIMIT_CHARS]
