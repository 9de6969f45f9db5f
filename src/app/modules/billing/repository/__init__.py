"""Every statement of billing."""
