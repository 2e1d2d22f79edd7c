"""Turn text of notebooks and models into HTML that is safe to show.

    clean      HTML without what could run, load or cover something
    prose      Markdown as HTML, its formulas kept apart
    formula    MathML in place of a formula

Whatever a model wrote is text here: scripts, styles, forms, frames and event handlers
do not survive, nor does any address that a page would fetch by itself.
"""

import re

import bleach
from bleach.css_sanitizer import CSSSanitizer
from bs4 import BeautifulSoup, Tag
from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

TAGS = """a abbr b blockquote br code dd del details div dl dt em h1 h2 h3 h4 h5 h6 hr
i img li mark ol p pre s small span strong sub summary sup table tbody td tfoot th
thead tr tt u ul""".split()


def _everywhere(tag: str, name: str, value: str) -> bool:
    """Attributes any tag may have; a style calls no function, so that none loads."""
    return (
        name in ("class", "title") or name == "style" and not re.search(r"[(\\]", value)
    )


ATTRIBUTES = {
    "*": _everywhere,
    "a": ["href"],
    "ol": ["start"],
    "img": ["src", "alt", "width", "height"],
    "td": ["colspan", "rowspan"],
    "th": ["colspan", "rowspan"],
}
STYLES = CSSSanitizer(
    """background border border-spacing color display flex min-width overflow
    text-align text-indent white-space width""".split()
)


def clean(html: str | bytes) -> str:
    """Remove from HTML what runs, loads or styles by itself."""
    html = html.decode() if isinstance(html, bytes) else str(html)
    html = re.sub(r"(?is)<(style|script)\b.*?(</\1\s*>|\Z)", "", html)
    protocols = ["http", "https", "mailto"]
    return bleach.clean(
        html, TAGS, ATTRIBUTES, protocols, strip=True, css_sanitizer=STYLES
    )


class Prose(IPythonRenderer):
    """Renders a formula as code of its own, which becomes MathML once all is clean."""

    def inline_math(self, body: str) -> str:
        return f'<code class="math">{self.escape_html(body)}</code>'

    block_math = inline_math


def prose(markdown: str) -> str:
    """Render a Markdown cell as HTML, not yet clean."""
    shape = Prose(escape=False, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=shape).render(markdown)


MATH = """math menclose mfenced mfrac mi mn mo mover mpadded mphantom mroot mrow mspace
msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover""".split()
PLAIN = """columnalign columnspacing display displaystyle fence largeop linethickness
lspace mathvariant maxsize minsize movablelimits rowspacing rspace scriptlevel separator
stretchy symmetric width xmlns""".split()


def formula(code: Tag) -> None:
    """Put MathML in the place of a formula.

    One that cannot be read, or that asks for more than signs in their places (a link,
    a style, a tag), stays as it was typed.
    """
    try:
        made = BeautifulSoup(convert(code.get_text()), "html.parser")
    except Exception:  # the converter has no common class of errors
        return
    tags = made.find_all(True)
    if all(tag.name in MATH and {*tag.attrs} <= {*PLAIN} for tag in tags):
        code.replace_with(made)
