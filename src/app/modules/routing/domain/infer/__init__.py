"""The form of a local agent: a prompt in, text out. Between it and OpenAI's, in both directions."""
