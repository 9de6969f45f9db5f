"""Implementations of the kernel's ports."""
