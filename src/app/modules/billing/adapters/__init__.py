"""What billing needs outside."""
