"""Throw-away notebooks, and runs of them whose output goes to a folder of its own."""

import os
import sys

import nbformat

from harness import files

PARAMETERS = 'SET = "mini"\nBASE = "mini-gpt2"\nINSTRUCT = ""\nDEVICE = "auto"\n'
PARAMETERS += 'DTYPE = "float32"\nSEED = 0\nN_PROMPTS = 60\nPAUSE = 0.0\n'
BODY = """
import sys, time; sys.path.insert(0, "{root}")
from harness import files
out = files.figures_dir(SET)
files.write_whole(out / "{n}_first.csv", f"{{SEED}},{{N_PROMPTS}}")
time.sleep(PAUSE)
files.write_whole(out / "{n}_second.csv", "done")
{extra}
"""


def write_notebook(folder, number, extra=""):
    book = nbformat.v4.new_notebook()
    tagged = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    body = BODY.format(root=files.ROOT, n=number, extra=extra)
    book.cells = [tagged, nbformat.v4.new_code_cell(body)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book.metadata["kernelspec"] = kernel
    path = folder / f"{number}_trial.ipynb"
    nbformat.write(book, path)
    return path


def command(place, *more):
    base = [sys.executable, "-m", "harness.run", "reproduce", "--set", "trial"]
    base += ["--base", str(place / "model"), "--notebooks", str(place / "notebooks")]
    return [*base, *more]


def environment(place):
    extra = {"REPRODUCE_OUT": str(place), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return os.environ | extra


def figures(place):
    folder = place / "figures" / "trial"
    return {p.name: p.read_text() for p in folder.glob("0*")} if folder.exists() else {}
