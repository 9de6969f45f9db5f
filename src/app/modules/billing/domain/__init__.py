"""Decisions of billing: what a call is limited by, and what is written down of it."""
