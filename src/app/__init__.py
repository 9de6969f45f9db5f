"""Insula: the back end of an AI product, in one process."""
