"""Verdicts of other training seeds are kept, and stand beside mini's own."""

from harness import claims, files
from harness.publish import blocks

HEADS = "id,kind,notebook,seed,verdict,part,cell,value,low,high,n\n"
ROW = "{},capability,02_translation,0,{},score,a,{},0.1,0.3,50\n"


def test_seeds_of_mini_are_kept_and_stand_beside_its_own(tmp_path, monkeypatch):
    for name, verdict, value in (("", "partly", 0.2), ("-seed1", "reproduced", 0.25)):
        folder = tmp_path / "figures" / f"mini{name}"
        folder.mkdir(parents=True)
        rows = ROW.format("R1", verdict, value) + ROW.format("R3", "partly", 1)
        (folder / "verdicts.csv").write_text(HEADS + rows)
        (folder / "02_translation.measured.csv").write_text("")
    (tmp_path / "models").mkdir()
    claims.claims()  # read once, from the repository
    monkeypatch.setattr(files, "ROOT", tmp_path)
    assert blocks.seeds().startswith("Not measured yet")
    blocks.keep_seeds()
    said = blocks.seeds()
    assert said.startswith("1 of 2 claims have the same verdict")
    assert (
        "| R1 | partly | reproduced | score: 0.2 [0.1, 0.3]; 0.25 [0.1, 0.3] |" in said
    )
