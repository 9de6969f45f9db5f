"""One OpenAI-compatible door to every model."""
