"""Make model text safe to show: nothing hidden, nothing steering, nothing undrawable.

escape_invisible     controls and direction marks spelled out, for HTML and terminals
readable             the same and no unknown glyph, cut to length, for a label
readable_sentence    the same at a sentence's length
"""

import re
import unicodedata
from functools import cache

from matplotlib import font_manager

HIDDEN = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e"
HIDDEN += r"\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"


def escape_invisible(text: str) -> str:
    """`text` with controls, direction marks and broken code points spelled out."""
    return re.sub(HIDDEN, lambda c: c[0].encode("unicode_escape").decode(), text)


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(
        font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    )


def readable(text, most: int = 28) -> str:
    """Model text made safe for a label: spaces at the ends and invisible or unknown
    characters are spelled out, long text is cut."""
    text = str(text)
    body = text.strip(" ")
    left, right = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    if not body:
        return "␣" * min(len(text), most)
    text = "␣" * left + "".join(map(_shown, body)) + "␣" * right
    text = f" {text}" if text[0] == "_" else text  # matplotlib hides such a label
    return text if len(text) <= most else text[: most - 1] + "…"


def readable_sentence(text) -> str:
    """`readable`, at a sentence's length: for a figure's words."""
    return readable(text, 60).strip()


def _shown(c: str) -> str:
    drawn = ord(c) in _glyphs() and unicodedata.category(c)[0] not in "CZ"
    return c if c == " " or drawn else c.encode("unicode_escape").decode()
