"""The verbs of the sandbox."""
