"""What one wire format says and another cannot."""

from app.kernel.errors import Invalid


class Unmappable(Invalid):
    """A member that has no counterpart at the upstream."""

    title = "Not supported here"
