"""Statements of storage."""
