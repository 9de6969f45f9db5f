"""What an inventory of the store has found to be wrong."""

from typing import Final

import msgspec

NAMED_LIMIT: Final = 20


class Tally(msgspec.Struct):
    """How many there are of one fault, and the names of the first of them."""

    count: int = 0
    named: list[str] = []

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.named) < NAMED_LIMIT:
            self.named.append(name)


class Findings(msgspec.Struct):
    """The rows and the blobs that were looked at, and what does not fit.

    ``lost``: parts whose blob is not there, or of another size. ``stray``: blobs without a row.
    ``torn``: kept bodies whose parts are not all there. ``unclaimed``: kept bodies of which no
    record, revision or backup knows. ``miscounted``: accounts whose sums are not those of their
    bodies.
    """

    blobs: int = 0
    parts: int = 0
    accounts: int = 0
    lost: Tally = msgspec.field(default_factory=Tally)
    stray: Tally = msgspec.field(default_factory=Tally)
    torn: Tally = msgspec.field(default_factory=Tally)
    unclaimed: Tally = msgspec.field(default_factory=Tally)
    miscounted: Tally = msgspec.field(default_factory=Tally)

    @property
    def faults(self) -> dict[str, Tally]:
        return {
            "lost": self.lost,
            "stray": self.stray,
            "torn": self.torn,
            "unclaimed": self.unclaimed,
            "miscounted": self.miscounted,
        }

    @property
    def is_sound(self) -> bool:
        return not any(tally.count for tally in self.faults.values())


def told(findings: Findings) -> str:
    """For whoever reads it at a terminal: a line for the whole, and one for each fault."""
    head = f"{findings.blobs} blobs, {findings.parts} parts, {findings.accounts} accounts"
    if findings.is_sound:
        return f"{head}: sound"
    lines = [
        f"{fault}: {tally.count}\n" + "".join(f"  {name}\n" for name in tally.named)
        for fault, tally in findings.faults.items()
        if tally.count
    ]
    return f"{head}: not sound\n{''.join(lines)}".rstrip()
