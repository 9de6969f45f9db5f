"""The benchmark: Insula beside a bare pass-through, LiteLLM and the upstream itself."""
