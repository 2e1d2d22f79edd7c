"""What one-vector prompts gave under other releases of transformers (claim I5).

read_version_matrix   figures/version_matrix.csv, made by versions/matrix.py
repeat_estimates      I5's parts: the share of releases that fed the vector again
"""

from __future__ import annotations

import pandas as pd

from experiments.stats import Estimate
from harness.files import ROOT

AFFECTED = ("4.49.0", "4.57.6")  # the ends of the span with the fault, issue 41863


def read_version_matrix() -> pd.DataFrame:
    """Read the committed matrix, one row a release and architecture.

    returned_length, returned: what `generate` gives for a prompt of 6 embeddings and 8
    new tokens; lost_by_slicing: new tokens cut off by output[prompt_len:]; one_vector:
    whether a prompt of one vector is read once (right) or at every step (repeated).
    """
    return pd.read_csv(ROOT / "figures" / "version_matrix.csv").loc[:, :"one_vector"]


def repeat_estimates(matrix: pd.DataFrame) -> dict[str, Estimate]:
    """I5's parts: repeat_affected and repeat_other, over releases that ran."""
    ran = matrix[matrix["one_vector"].isin(["right", "repeated", "other"])]
    repeated = (ran["one_vector"] == "repeated").groupby(ran["transformers"]).all()
    affected = repeated.index.isin(AFFECTED)
    groups = {"repeat_affected": affected, "repeat_other": ~affected}
    return {
        part: Estimate.exact(repeated[group].mean(), int(group.sum()))
        for part, group in groups.items()
    }
