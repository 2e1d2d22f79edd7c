"""nbval over the committed notebooks: what it compares, and where they write."""

import atexit
import os
import shutil
import tempfile

collect_ignore = ["00_playground.ipynb"]  # interactive; a test of its own executes it

_out = tempfile.mkdtemp(prefix="notebooks-")
atexit.register(shutil.rmtree, _out, ignore_errors=True)
os.environ |= {
    "REPRODUCE_OUT": _out,  # the working tree stays as it is
    "JUPYTER_PREFER_ENV_PATH": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def pytest_collectstart(collector):
    """Checked cells compare what they print: not warnings, pictures or HTML."""
    if hasattr(collector, "skip_compare"):
        more = ("stderr", "text/html", "image/png", "image/svg+xml")
        collector.skip_compare += more
