"""A notebook as a page: nbconvert's HTML, made safe, light and readable anywhere.

read_book    an executed notebook with the cells where its figures and claims are
body         its cells as HTML: sanitised, figures linked, wide things in a box
picture      what is known of a figure: alt text, claims, size
"""

import base64
import csv
import json
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter

from harness import files
from harness.publish.sanitize import clean, formula, prose

SHOWN = ["text/html", "text/markdown", "image/png", "image/svg+xml", "image/jpeg"]
SHOWN += ["text/latex", "text/plain"]
FEW = 60  # rows of a figure's csv that its page shows as a table
WIDGET = "application/vnd.jupyter.widget-view+json"
PANEL = "<p><em>Here is a panel that needs a running kernel: make lab.</em></p>"


@dataclass(frozen=True)
class Picture:
    """A kept figure. width and height in pixels of its PNG; numbers: its csv's rows,
    the heads first, where they are few enough to be read."""

    name: str
    alt: str
    claims: tuple[str, ...]
    width: int
    height: int
    digest: str
    numbers: tuple[list[str], ...] = ()


@dataclass
class Book:
    """An executed notebook; cells are counted from 1, as the pages' anchors are."""

    name: str
    origin: str
    node: nbformat.NotebookNode
    title: str = ""
    figures: dict[str, str] = field(default_factory=dict)  # name -> anchor
    claims: dict[str, int] = field(default_factory=dict)
    recorded: int = 0

    @property
    def page(self) -> str:
        return f"{self.name}.html"


def picture(png: Path) -> Picture:
    """What is known of the figure in `png`; ValueError if it is not whole."""
    try:
        about = json.loads(png.with_suffix(".alt.json").read_text(encoding="utf-8"))
        size = struct.unpack(">II", png.read_bytes()[16:24])
        with open(png.with_suffix(".csv"), newline="", encoding="utf-8") as file:
            rows = tuple(csv.reader(file))
        kept = about["alt"], tuple(about["claims"]), *size, files.digest(png)
        return Picture(png.stem, *kept, rows if len(rows) <= FEW else ())
    except (OSError, ValueError, KeyError, struct.error):
        raise ValueError(
            f"{png.name} or its .alt.json is not whole: run make reproduce again"
        ) from None


def read_book(path: Path, origin: str, pictures: list[Picture], ids: list[str]) -> Book:
    """Read an executed notebook and find its figures and claims among its cells."""
    book = Book(path.stem, origin, nbformat.read(path, as_version=4))
    book.title = book.name
    for number, cell in enumerate(book.node.cells, 1):
        cell.id = str(number)
        cell.pop("attachments", None)  # pictures come as outputs only
        if cell.cell_type == "markdown":
            heads = re.findall(r"(?m)^#+ +(.*)$", cell.source)
            if number == 1 and heads:
                book.title = re.sub(r"[*_`]", "", heads[0])
            elif heads:
                for id in set(re.findall(r"\b[A-Z]\d+\b", " ".join(heads))) & {*ids}:
                    book.claims.setdefault(id, number)
        if cell.cell_type != "code":
            continue
        if "claims.record(" in cell.source:
            book.recorded = number
        for picture in pictures:
            if f'"{picture.name}"' in cell.source:
                book.figures.setdefault(picture.name, f"cell-{number}")
        for output in cell.outputs:
            if "metadata" in output:  # it would be written into the page as attributes
                output.metadata = nbformat.NotebookNode()
            _link_figure(book, cell, output, pictures)
            if WIDGET in output.get("data", {}):
                output.data = {"text/html": PANEL}
    for id in ids:  # a claim without a heading of its own: where it is first named
        named = (n for n, c in enumerate(book.node.cells, 1) if f'"{id}"' in c.source)
        number = book.claims.get(id) or next(named, 0) or book.recorded
        if number:
            book.claims[id] = number
    return book


def _link_figure(book: Book, cell, output, pictures: list[Picture]) -> None:
    """Point an output that is a kept figure, byte for byte, to the kept file."""
    data = output.get("data", {}).get("image/png")
    digest = files.digest(base64.b64decode(data)) if data else ""
    same = [p for p in pictures if p.digest == digest]
    same.sort(key=lambda p: f'"{p.name}"' not in cell.source)  # two may look alike
    for picture in same[:1]:
        book.figures[picture.name] = picture.name  # a figure is its own anchor
        output.metadata["filenames"] = {"image/png": f"figures/{picture.name}.png"}
        output.metadata["image/png"] = {"alt": picture.alt}


def body(book: Book, pages: set[str], pictures: dict[str, Picture]) -> str:
    """The notebook's cells as HTML for a page of ours, its first heading the title."""
    exporter = HTMLExporter(template_name="basic", sanitize_html=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.config.NbConvertBase.display_data_priority = SHOWN
    exporter.register_filter("clean_html", clean)
    exporter.register_filter("markdown2html", prose)
    soup = BeautifulSoup(exporter.from_notebook_node(book.node)[0], "html.parser")
    for cell in soup.select("div.cell"):
        cell["id"] = cell.get("id", "").replace("cell-id=", "cell-")
    if not soup.h1:
        title = soup.new_tag("h1")
        title.string = book.title
        soup.insert(0, title)
    for link in soup.select("a[href]"):
        _resolve(link, pages)
    for image in soup.select("img"):
        _caption(soup, image, pictures)
    for count, wide in enumerate(soup.select("table"), 1):
        _table(wide)
        box = {"class": "scroll", "tabindex": "0", "role": "region"}
        wide.wrap(soup.new_tag("div", attrs=box | {"aria-label": f"Table {count}"}))
    for code in soup.select("code.math"):
        formula(code)
    for block in soup.select("pre"):
        block["tabindex"] = "0"
    return str(soup)


def _resolve(link, pages: set[str]) -> None:
    """Links between notebooks lead to their pages; what is not in the site is text."""
    target, hash, part = link["href"].partition("#")
    page = target.rsplit("/", 1)[-1].replace(".ipynb", ".html")
    if re.match(r"https?:|mailto:", target):
        link["rel"] = "noreferrer"
    elif page in pages:
        link["href"] = page
    elif target or not link.find_parent().find(id=part):
        link.unwrap()


def _table(wide) -> None:
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
                cell["class"] = (
                    "text" + " long" * (longest > 30) + "er" * (longest > 150)
                )


def _caption(soup, image, pictures: dict[str, Picture]) -> None:
    """A figure in its box, with what it was drawn from; foreign addresses go."""
    source = image.get("src", "")
    known = pictures.get(Path(source).stem)
    if not known:
        if not source.startswith("data:image/"):
            image.replace_with(f"[image: {image.get('alt', '')}]")
        return
    image["src"] = f"figures/{known.name}.png"
    image["width"], image["height"] = known.width, known.height
    image["style"] = f"--width: {known.width}px"
    figure, box = soup.new_tag("figure", id=known.name), {"class": "scroll"}
    image.wrap(figure)
    image.wrap(soup.new_tag("div", attrs=box | {"tabindex": "0", "role": "region",
               "aria-label": f"Figure {known.name}"}))  # fmt: skip
    caption = soup.new_tag("figcaption")
    figure.append(caption)
    caption.append(f"Figure {known.name}: ")
    for kind, word in ((".csv", "its numbers"), (".svg", "as a drawing")):
        link = soup.new_tag("a", href=f"figures/{known.name}{kind}")
        link.string = f"{word} ({kind[1:]})"
        caption.extend([link, ", " if kind == ".csv" else ""])
    for id in known.claims:
        link = soup.new_tag("a", href=f"claims.html#{id}")
        link.string = f"evidence for {id}"
        caption.extend([", ", link])
    if known.numbers:
        figure.append(_numbers(soup, known.numbers))


def _numbers(soup, rows) -> object:
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
