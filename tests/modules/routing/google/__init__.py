"""Tests of the translation to and from the Gemini API."""
