"""The wire of flows."""
