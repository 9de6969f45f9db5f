"""OpenAI's Responses API, spoken to a server that knows chat completions only.

``request.py`` reads what a caller sends, ``to_chat.py`` writes it as chat completions,
``from_chat.py`` and ``streams.py`` turn the answer back. Only a declared subset is translated: what
has no counterpart in chat completions is ``Unmappable`` and named, never dropped in silence.
"""
