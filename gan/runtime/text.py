"""Text from outside, such as file names, as it may be printed."""

import unicodedata


def printable(value: object) -> str:
    """Return a value as one line of text, with escapes for control characters and for bytes that are not UTF-8."""
    return "".join(c if _is_printable(c) else c.encode("unicode_escape").decode() for c in str(value))


def _is_printable(character: str) -> bool:
    """Return whether a character is no control, format or undefined one, and separates no lines."""
    category = unicodedata.category(character)
    return category[0] != "C" and category not in ("Zl", "Zp")
