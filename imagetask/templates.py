"""Prompt templates: one text with columns of the source in braces, as in "a {style} painting of {subject}"."""

from __future__ import annotations

from string import Formatter

TEMPLATE = r"([^{}]|\{\{|\}\}|\{[^{}:!]+\})+"
"""What a template matches; {{ and }} are braces."""


def template_pieces(template: str) -> list[tuple[str, str | None]]:
    """Text, and the column after it, or None where none follows."""
    return [(text, column) for text, column, _, _ in Formatter().parse(template)]
