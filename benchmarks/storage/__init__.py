"""What storage costs, beside the same work without a server."""
