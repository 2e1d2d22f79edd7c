"""What an output of a notebook shows, kept in the output's own metadata.

    figure_metadata    of a picture: the name of the figure
    claims_metadata    of a verdict: the ids of the claims
    read_metadata      an output as nbformat stores it -> what it shows

IPython puts the metadata of a picture under its MIME type, that of other outputs at the
top. papermill and nbstripout keep both.
"""

from collections.abc import Iterable, Mapping

METADATA_KEY = "concept_tokens"


def figure_metadata(name: str) -> dict[str, dict]:
    """Metadata of a picture that shows the figure `name`."""
    return {METADATA_KEY: {"figure": name}}


def claims_metadata(claim_ids: Iterable[str], recorded: bool = False) -> dict:
    """Metadata of an output that shows the verdicts of claims.

    recorded: whether the cell also wrote the measured rows, as Recorder.finish does.
    """
    return {METADATA_KEY: {"claims": [*claim_ids], "recorded": recorded}}


def read_metadata(output: Mapping) -> dict:
    """Read what an output shows; {} where it does not say.

    output: as nbformat stores it.
    """
    metadata = output.get("metadata", {})
    for found in (metadata, *metadata.values()):
        if isinstance(found, Mapping) and isinstance(found.get(METADATA_KEY), Mapping):
            return dict(found[METADATA_KEY])
    return {}
