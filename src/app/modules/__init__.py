"""The bounded contexts of the house, each behind its own door."""
