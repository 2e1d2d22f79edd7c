"""End a notebook before its last cell, so that nothing takes it for a failure.

skip_cells_without   run no further cell until one sets a parameter again
"""

from __future__ import annotations

from IPython import get_ipython


def skip_cells_without(parameter: str) -> None:
    """Run no further cell, until one holds a line "PARAMETER = ...".

    Later cells are run as empty ones: papermill, nbval and "run all" go on to the end,
    no output is left, and the kernel is not stuck. Nothing outside of IPython.
    """
    shell = get_ipython()
    if shell is None:
        return
    transformers = shell.input_transformers_cleanup

    def skip(lines: list[str]) -> list[str]:
        if not any(line.startswith(f"{parameter} =") for line in lines):
            return ["pass\n"]
        transformers.remove(skip)
        return lines

    transformers.append(skip)
