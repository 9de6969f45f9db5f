"""Anthropic's Messages API and OpenAI's chat completions, each spoken as the other.

After the two public API references. What is translated is a declared subset; a member outside it
that would change the answer raises ``Unmappable``, which names it. Members inside a tool, a block
or a part that nobody knows pass by.
"""
