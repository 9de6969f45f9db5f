"""Measures what a script in the sandbox costs, beside the same process started by hand."""
