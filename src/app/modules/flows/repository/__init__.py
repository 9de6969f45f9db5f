"""Every statement of flows."""
