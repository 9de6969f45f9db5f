"""The verbs of storage."""
