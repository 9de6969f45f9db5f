"""Statements of the sandbox."""
