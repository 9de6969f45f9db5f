"""Storage on the wire."""
