"""Decisions of routing, without waiting."""
