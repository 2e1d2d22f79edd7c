"""Publish mini's results: stripped notebooks, and the generated blocks of the pages.

publish           only if every notebook is up to date, with its default parameters
strip_volatile    a notebook's bytes without what changes from run to run
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from nbstripout import strip_output

from harness import files
from harness.publish.blocks import fill_blocks, keep_costs, keep_seeds
from harness.publish.notebook_html import light_copy
from harness.publish.site import executed_notebooks

if TYPE_CHECKING:
    from harness.run.notebook_process import NotebookProcess

VOLATILE = ["metadata.papermill", "metadata.language_info.version", "metadata.widgets"]
VOLATILE += ["cell.metadata.papermill", "cell.metadata.execution"]

INSTALLED = re.compile(rb"/[^\s\"]*/(?=site-packages/)")  # where a warning comes from
# In a parameters cell: where a model's folder lay, before its own name.
MODEL_FOLDER = re.compile(rb'((?:BASE|INSTRUCT) = \\")[/~.][^"\\]*/([^"/\\]+\\")')


def publish(
    jobs: Iterable[NotebookProcess], is_up_to_date: Callable[[NotebookProcess], bool]
) -> int:
    """Copy the executed notebooks of `jobs` into notebooks/; fill README.md and docs/.

    ValueError where one has other parameters than its own or is not up to date.
    """
    stale = [job.name for job in jobs if job.parameters or not is_up_to_date(job)]
    if stale:
        raise ValueError(f"{', '.join(stale)} not up to date: run make reproduce first")
    for job in jobs:
        executed = files.run_dir("mini") / job.path.name
        replace_file(job.path, strip_volatile(executed.read_bytes()))
    keep_costs()
    keep_seeds()
    keep_notebooks()
    for page, up in pages():
        text = fill_blocks(page.read_text(encoding="utf-8"), up)
        replace_file(page, text.encode("utf-8"))
    return 0


def keep_notebooks() -> None:
    """Keep other sets' executed notebooks with their figures, for the site.

    Only those that this machine has run and whose figures are still theirs; stripped,
    without the pixels of figures that are kept as files.
    """
    for set_name in files.set_folders():
        for path, origin in executed_notebooks(set_name) if set_name != "mini" else ():
            if origin.startswith("runs/"):
                light = light_copy(strip_volatile(path.read_bytes()))
                replace_file(files.figures_dir(set_name) / path.name, light)


def pages() -> list[tuple[Path, str]]:
    """README.md and docs/*.md, each with the way from its folder to the repository."""
    docs = sorted((files.ROOT / "docs").glob("*.md"))
    return [(files.ROOT / "README.md", ""), *((page, "../") for page in docs)]


def replace_file(path: Path, content: bytes) -> None:
    """Write only what differs, and say so."""
    if not path.exists() or path.read_bytes() != content:
        files.write_whole(path, content)
        print(f"published {'/'.join(path.parts[-2:])}")


def strip_volatile(notebook: bytes) -> bytes:
    """A notebook with its outputs and counts, without volatile metadata or paths."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # as nbstripout's own command does
        cells = nbformat.reads(notebook.decode("utf-8"), nbformat.NO_CONVERT)
        kept = {"keep_output": True, "keep_count": True, "keep_id": False}
        text = nbformat.writes(strip_output(cells, **kept, extra_keys=VOLATILE))
    lines = f"{text}\n".encode().splitlines(keepends=True)
    for i, line in enumerate(lines):
        if b"site-packages/" in line:  # elsewhere, as in a picture, a search is long
            lines[i] = INSTALLED.sub(b"", line)
    return MODEL_FOLDER.sub(rb"\1\2", b"".join(lines))
