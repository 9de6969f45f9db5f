"""HTTP of auth."""
