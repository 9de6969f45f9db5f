"""What a caller asks of the providers of a model: the ``provider`` member that OpenRouter made.

After https://openrouter.ai/docs/features/provider-routing. Members that we cannot honour are
refused by name: a wish that is silently dropped is a promise that is silently broken.
"""

import re
from decimal import Decimal
from typing import Annotated, Final, Literal

import msgspec

from app.kernel.errors import Invalid

Sort = Literal["price", "throughput", "latency"]

NAMES_LIMIT: Final = 64
NAME_LIMIT_CHARS: Final = 200
NAMED_UNKNOWN_LIMIT: Final = 5
# Far above any price; it keeps a number with a huge exponent from becoming a huge integer.
MOST_PER_MILLION: Final = Decimal(1_000_000_000)
MICROS: Final = Decimal(1_000_000)
ERROR_PATH: Final = re.compile(r" - at `\$\.?([^`]*)`$")
ITEM: Final = re.compile(r"\[[^\]]*\]")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_LIMIT_CHARS)]
Names = Annotated[tuple[Name, ...], msgspec.Meta(max_length=NAMES_LIMIT)]


class BadPreferences(Invalid):
    """``provider`` is not what can be asked of a provider."""

    title = "Invalid provider preferences"


class Preferences(msgspec.Struct, frozen=True):
    """Upstreams are named in lower case, by their name or with their model: ``groq/llama``.

    The prices are the highest wanted, in micro-units of the currency for a million tokens.
    """

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    sort: Sort | None = None
    max_prompt_micros: int | None = None
    max_completion_micros: int | None = None
    allow_fallbacks: bool = True
    require_parameters: bool = False
    data_collection: Literal["allow", "deny"] = "allow"
    zdr: bool = False

    @property
    def is_private(self) -> bool:
        """Whether nobody may keep what is sent."""
        return self.zdr or self.data_collection == "deny"


NO_PREFERENCES: Final = Preferences()


class _MaxPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompt: Decimal | None = None
    completion: Decimal | None = None


class _Provider(msgspec.Struct, frozen=True):
    order: Names | None = None
    only: Names | None = None
    ignore: Names | None = None
    sort: Sort | None = None
    max_price: _MaxPrice | None = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    zdr: bool | None = None


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_provider = msgspec.json.Decoder(_Provider)


def read_preferences(raw: msgspec.Raw) -> Preferences:
    """Decode ``provider``; ``BadPreferences`` names the member that cannot be used."""
    try:
        unknown = sorted(_members.decode(raw).keys() - set(_Provider.__struct_fields__))
        if unknown:
            raise _unknown(unknown)
        found = _provider.decode(raw)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadPreferences("`provider` is not a JSON object.", param="provider") from None
    price = found.max_price or _MaxPrice()
    return Preferences(
        order=_lower(found.order),
        only=_lower(found.only),
        ignore=_lower(found.ignore),
        sort=found.sort,
        max_prompt_micros=_price(price.prompt, "prompt"),
        max_completion_micros=_price(price.completion, "completion"),
        allow_fallbacks=found.allow_fallbacks is not False,
        require_parameters=bool(found.require_parameters),
        data_collection=found.data_collection or "allow",
        zdr=bool(found.zdr),
    )


def micros_per_million(amount: Decimal) -> int | None:
    """Read a price for a million tokens, rounded down to micro-units; ``None`` if it is none."""
    if not amount.is_finite() or not 0 <= amount <= MOST_PER_MILLION:
        return None
    return int(amount * MICROS)


def _price(amount: Decimal | None, member: str) -> int | None:
    if amount is None:
        return None
    micros = micros_per_million(amount)
    if micros is None:
        path = f"provider.max_price.{member}"
        text = f"`{path}` is a price for a million tokens, from 0 to {MOST_PER_MILLION}."
        raise BadPreferences(text, param=path)
    return micros


def _lower(names: tuple[str, ...] | None) -> tuple[str, ...]:
    return tuple(name.lower() for name in names or ())


def _unknown(names: list[str]) -> BadPreferences:
    known = ", ".join(_Provider.__struct_fields__)
    named = ", ".join(
        f"`provider.{name[:NAME_LIMIT_CHARS]}`" for name in names[:NAMED_UNKNOWN_LIMIT]
    )
    text = f"{named} cannot be asked of a provider here; what can be asked is {known}."
    return BadPreferences(text, param=f"provider.{names[0][:NAME_LIMIT_CHARS]}")


def _wrong(text: str) -> BadPreferences:
    """Turn a decoder's sentence, which ends with the place, into one that begins with it."""
    found = ERROR_PATH.search(text)
    path = f"provider.{found[1]}" if found and found[1] else "provider"
    reason = ERROR_PATH.sub("", text)
    return BadPreferences(f"`{path}`: {reason}.", param=ITEM.sub("", path))
