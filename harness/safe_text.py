"""Make model text safe to show: nothing hidden, nothing steering, nothing undrawable.

plain_cells          a table whose text no spreadsheet takes for a formula
escape_outputs       a notebook's outputs with nothing hidden
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
# a sign, then more than a number: "=1+1", "@SUM", "-2+cmd"; not "-0.5", "=" or "- a"
FORMULA = r"[\t\r]|[=@][^=\s]|[+-](?![\s+-]|[\d.]+(e[+-]?\d+)?$)."


def escape_invisible(text: str) -> str:
    """`text` with controls, direction marks and broken code points spelled out."""
    return re.sub(HIDDEN, lambda c: c[0].encode("unicode_escape").decode(), text)


def plain_cells(frame):
    """A copy of `frame` for a csv file: text that a spreadsheet would run is quoted."""
    return frame.map(
        lambda cell: (
            f"'{cell}" if isinstance(cell, str) and re.match(FORMULA, cell) else cell
        )
    )


def escape_outputs(path) -> None:
    """Spell out, in an executed notebook's outputs, what would hide or steer."""
    import nbformat

    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        for output in cell.get("outputs", []):
            kinds = output.get("data", {})
            for kind in kinds:
                if kind.startswith("text/"):
                    kinds[kind] = escape_invisible(kinds[kind])
            if "text" in output:
                output["text"] = escape_invisible(output["text"])
    nbformat.write(book, path)


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
