"""Google's Gemini API, for callers who speak OpenAI's chat completions and embeddings.

``request.py`` writes a chat as ``GenerateContentRequest``, ``answers.py`` and ``streams.py`` turn
the answer back, ``embeddings.py`` does both for vectors. A declared subset is translated: what has
no counterpart is ``Unmappable`` and named, never dropped in silence.
"""
