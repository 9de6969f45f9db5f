"""What auth needs outside: slow hashes, and signed or sealed text."""

from typing import Protocol

from app.modules.auth.domain import Claims, Verdict


class SecretHasher(Protocol):
    """Hashes passwords slowly, a few at a time; ``TooMany`` when too many wait already."""

    async def hash(self, secret: bytes) -> str: ...

    async def verify(self, stored: str | None, secret: bytes) -> Verdict:
        """Compare. Without ``stored`` it is wrong, and takes just as long to say so."""
        ...

    def close(self) -> None: ...


class TokenSigner(Protocol):
    """Signs access tokens, and seals short texts for whoever knows ``context``."""

    async def sign(self, claims: Claims) -> str: ...

    async def read(self, token: bytes) -> Claims | None:
        """Return the claims of a token that we signed, expired or not; ``None`` for any other."""
        ...

    async def seal(self, text: str, context: bytes) -> str: ...

    async def unseal(self, sealed: str, context: bytes) -> str | None:
        """``None`` for what was sealed with a secret that we no longer have, or not by us."""
        ...
