"""Text that is printed: of limited width, and without what file names and other text from outside may contain."""

import re
import shutil
import textwrap
import unicodedata


def fit(text: str) -> str:
    """Return a text with line breaks at spaces, so that its lines fit into the terminal, which would break words.

    A line goes on below its last column, which has two spaces before it, or below its beginning if that is too far to
    the right.
    """
    width = shutil.get_terminal_size().columns
    return "\n".join(part for line in text.split("\n") for part in _break_line(line, width))


def _break_line(line: str, width: int) -> list[str]:
    starts = [match.end() for match in re.finditer(r"^ *|(?<=\S)  +", line)]
    first, later = starts[0], max(start for start in starts if start <= max(width // 2, starts[0]))
    wrapper = textwrap.TextWrapper(width, " " * first, " " * later, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(line[first:]) or [""]


def printable(value: object) -> str:
    """Return a value as one line of text, with escapes for control characters and for bytes that are not UTF-8."""
    return "".join(c if _is_printable(c) else c.encode("unicode_escape").decode() for c in str(value))


def _is_printable(character: str) -> bool:
    """Return whether a character is no control, format or undefined one, and separates no lines."""
    category = unicodedata.category(character)
    return category[0] != "C" and category not in ("Zl", "Zp")
