"""Turn a notebook into a page: nbconvert's HTML, made safe and readable anywhere.

read_picture    what is known of a figure: alt text, claims, size
light_copy      an executed notebook without the pixels of its figures
read_book       an executed notebook, and which cell shows which figure and claim
render_cells    its cells as HTML: sanitised, figures linked, wide things in a box
"""

import base64
import csv
import json
import re
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup, Tag
from nbconvert import HTMLExporter

from harness import files, outputs
from harness.publish.sanitize import clean, formula, prose

SHOWN = ["text/html", "text/markdown", "image/png", "image/svg+xml", "image/jpeg"]
SHOWN += ["text/latex", "text/plain"]
MOST_ROWS = 60  # of a figure's csv, for its page to show them as a table
WIDGET = "application/vnd.jupyter.widget-view+json"
PANEL = "<p><em>Here is a panel that needs a running kernel: make lab.</em></p>"


@dataclass(frozen=True)
class Picture:
    """A kept figure. width and height in pixels of its PNG; numbers: its csv's rows,
    the heads first, where they are few enough to be read; folder: of the site."""

    name: str
    alt: str
    claims: tuple[str, ...]
    width: int
    height: int
    digest: str
    numbers: tuple[list[str], ...] = ()
    folder: str = "figures"

    @property
    def file(self) -> str:
        return f"{self.folder}/{self.name}"


@dataclass
class Book:
    """An executed notebook; cells are counted from 1, as the pages' anchors are.

    figures: name -> its anchor in the page. claims: id -> the cell where its section
    begins, else the first that shows its verdict. recorded: the cell that wrote the
    measured rows, or 0. prefix: of its page, where it is of another set than the site.
    """

    name: str
    origin: str
    node: nbformat.NotebookNode
    title: str = ""
    figures: dict[str, str] = field(default_factory=dict)
    claims: dict[str, int] = field(default_factory=dict)
    recorded: int = 0
    prefix: str = ""

    @property
    def page(self) -> str:
        return f"{self.prefix}{self.name}.html"


def read_picture(png: Path, folder: str = "figures") -> Picture:
    """Read what is known of the figure in `png`; ValueError if it is not whole."""
    try:
        about = json.loads(png.with_suffix(".alt.json").read_text(encoding="utf-8"))
        size = struct.unpack(">II", png.read_bytes()[16:24])
        with open(png.with_suffix(".csv"), newline="", encoding="utf-8") as file:
            rows = tuple(csv.reader(file))
        if not isinstance(about["alt"], str):
            raise ValueError
        kept = about["alt"], tuple(map(str, about["claims"])), *size, files.digest(png)
        numbers = rows if len(rows) <= MOST_ROWS else ()
        return Picture(png.stem, *kept, numbers, folder)
    except (OSError, ValueError, KeyError, TypeError, struct.error, csv.Error):
        raise ValueError(
            f"{png.name} or its .alt.json is not whole: run make reproduce again"
        ) from None


def read_book(
    path: Path,
    origin: str,
    pictures: Iterable[Picture],
    claim_ids: Collection[str],
    prefix: str = "",
) -> Book:
    """Read an executed notebook, and find its figures and claims among its cells.

    Figures and verdicts are found by what their outputs' metadata says. origin: the
    folder to name as the notebook's. prefix: of its page.
    """
    node = nbformat.read(path, as_version=4)
    book = Book(path.stem, origin, node, title=path.stem, prefix=prefix)
    by_name, headed, shown = {p.name: p for p in pictures}, {}, {}
    for number, cell in enumerate(book.node.cells, 1):
        cell.id = str(number)
        cell.pop("attachments", None)  # pictures come as outputs only
        heads = re.findall(r"(?m)^#+ +(.*)$", cell.source)
        if cell.cell_type == "markdown" and number == 1 and heads:
            book.title = re.sub(r"[*_`]", "", heads[0])
        elif cell.cell_type == "markdown":
            for claim in re.findall(r"\b[A-Z]\d+\b", " ".join(heads)):
                headed.setdefault(claim, number)
        for output in cell.get("outputs", []):
            about = outputs.read_metadata(output)
            if "metadata" in output:  # nbconvert would write it as attributes
                output.metadata = nbformat.NotebookNode()
            for claim in about.get("claims", []):
                shown.setdefault(claim, number)
            book.recorded = number if about.get("recorded") else book.recorded
            if about.get("figure") in by_name:
                restore_picture(output, path.parent / f"{about['figure']}.png")
                _link_figure(book, number, output, by_name[about["figure"]])
            if WIDGET in output.get("data", {}):
                output.data = {"text/html": PANEL}
    found = {claim: headed.get(claim) or shown.get(claim) for claim in claim_ids}
    book.claims = {claim: number for claim, number in found.items() if number}
    return book


def light_copy(notebook: bytes) -> bytes:
    """A notebook's bytes without the pixels of its figures, which are kept as files."""
    node = nbformat.reads(notebook.decode("utf-8"), as_version=4)
    for cell in node.cells:
        for output in cell.get("outputs", []):
            if outputs.read_metadata(output).get("figure"):
                output.data["image/png"] = ""
    return (nbformat.writes(node) + "\n").encode("utf-8")


def restore_picture(output, png: Path) -> None:
    """Put the pixels back that light_copy has left out, from the file beside it."""
    if output.get("data", {}).get("image/png") == "" and png.exists():
        output.data["image/png"] = base64.b64encode(png.read_bytes()).decode()


def _link_figure(book: Book, number: int, output, picture: Picture) -> None:
    """Point an output that is the kept figure, byte for byte, to the kept file."""
    data = output.get("data", {}).get("image/png")
    if data and files.digest(base64.b64decode(data)) == picture.digest:
        book.figures[picture.name] = picture.name  # a figure is its own anchor
        output.metadata["filenames"] = {"image/png": f"{picture.file}.png"}
        output.metadata["image/png"] = {"alt": picture.alt}
    else:
        book.figures.setdefault(picture.name, f"cell-{number}")


@cache  # it compiles its templates once
def _exporter() -> HTMLExporter:
    exporter = HTMLExporter(template_name="basic", sanitize_html=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.config.NbConvertBase.display_data_priority = SHOWN
    exporter.register_filter("clean_html", clean)
    exporter.register_filter("markdown2html", prose)
    return exporter


def render_cells(
    book: Book, pages: Collection[str], pictures: dict[str, Picture]
) -> str:
    """Render a notebook's cells as HTML, its first heading the title.

    pages: the names of the site's pages. pictures: the kept figures by name.
    """
    soup = BeautifulSoup(_exporter().from_notebook_node(book.node)[0], "html.parser")
    for cell in soup.select("div.cell"):
        cell["id"] = cell.get("id", "").replace("cell-id=", "cell-")
    if not soup.h1:
        title = soup.new_tag("h1")
        title.string = book.title
        soup.insert(0, title)
    for link in soup.select("a[href]"):
        _resolve(link, pages, book.prefix)
    for image in soup.select("img"):
        _caption(soup, image, pictures)
    for count, wide in enumerate(soup.select("table"), 1):
        _table(wide)
        wide.wrap(_scroll_box(soup, f"Table {count}"))
    for code in soup.select("code.math"):
        formula(code)
    for block in soup.select("pre"):
        block["tabindex"] = "0"
    return str(soup)


def _resolve(link: Tag, pages: Collection[str], prefix: str) -> None:
    """Lead links between notebooks to their pages; turn dead ones into text."""
    target, _, part = link["href"].partition("#")
    page = target.rsplit("/", 1)[-1].replace(".ipynb", ".html")
    page = prefix + page if prefix + page in pages else page
    if re.match(r"https?:|mailto:", target):
        link["rel"] = "noreferrer"
    elif page in pages:
        link["href"] = page
    elif target or not link.find_parent().find(id=part):
        link.unwrap()


def _table(wide: Tag) -> None:
    """Name a table's headers, and set text to the left, numbers to the right."""
    for head in wide.select("th"):
        alone = head.find_parent("thead") or not head.find_parent("tr").td
        head["scope"] = "col" if alone else "row"
    lines = [line.find_all(["th", "td"]) for line in wide.select("tr")]
    for column in range(1, 1 + max(map(len, lines), default=0)):  # from the right:
        cells = [line[-column] for line in lines if column <= len(line)]  # rowspans
        texts = [c.get_text().strip() for c in cells if c.get("scope") != "col"]
        longest = max(map(len, texts), default=0)
        if not all(re.fullmatch(r"[-+\d.,e% ]*|nan|None|<NA>", t) for t in texts):
            for cell in cells:
                width = " longer" if longest > 150 else " long" if longest > 30 else ""
                cell["class"] = f"text{width}"


def _caption(soup: BeautifulSoup, image: Tag, pictures: dict[str, Picture]) -> None:
    """A figure in its box, with what it was drawn from; foreign addresses go."""
    source = image.get("src", "")
    known = pictures.get(Path(source).name.removesuffix(".png"))
    if not known:
        if not source.startswith("data:image/"):
            image.replace_with(f"[image: {image.get('alt', '')}]")
        return
    image["src"] = f"{known.file}.png"
    image["width"], image["height"] = known.width, known.height
    image["style"] = f"--width: {known.width}px"
    figure = soup.new_tag("figure", id=known.name)
    image.wrap(figure)
    image.wrap(_scroll_box(soup, f"Figure {known.name}"))
    caption = soup.new_tag("figcaption")
    figure.append(caption)
    caption.append(f"Figure {known.name}: ")
    for kind, word in ((".csv", "its numbers"), (".svg", "as a drawing")):
        link = soup.new_tag("a", href=f"{known.file}{kind}")
        link.string = f"{word} ({kind[1:]})"
        caption.extend([link, ", " if kind == ".csv" else ""])
    for claim in known.claims:
        link = soup.new_tag("a", href=f"claims.html#{claim}")
        link.string = f"evidence for {claim}"
        caption.extend([", ", link])
    if known.numbers:
        figure.append(_numbers(soup, known.numbers))


def _scroll_box(soup: BeautifulSoup, label: str) -> Tag:
    """A box that scrolls sideways and that the keyboard can reach."""
    box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": label}
    return soup.new_tag("div", attrs=box)


def _numbers(soup: BeautifulSoup, rows: Iterable[list[str]]) -> Tag:
    """A figure's csv as a table that opens, for a reader who cannot see the figure."""
    details, summary = soup.new_tag("details"), soup.new_tag("summary")
    table, head, body = map(soup.new_tag, ("table", "thead", "tbody"))
    summary.string = "Its numbers as a table"
    for place, row in enumerate(rows):
        line = soup.new_tag("tr")
        for text in row:
            cell = soup.new_tag("td" if place else "th")
            cell.string = text
            line.append(cell)
        (body if place else head).append(line)
    table.extend([head, body])
    details.extend([summary, table])
    return details
