"""Figures: the same numbers give the same bytes, beside their data and alt text."""

import json

import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from harness import alt_text, charts, figures, safe_text
from tests.tiny import tiny_model

FRAME = pd.DataFrame(
    {
        "x": [0.0, 1.0, 0.0, 1.0],
        "kind": ["a", "a", "b", "b"],
        "y": [0.123456, 1.0, 2.0, 1e-17],
        "low": [0.1, 0.9, 1.9, 0.0],
        "high": [0.2, 1.1, 2.1, 0.1],
    }
)
HOSTILE = [
    " Paris",
    "$x^2$",
    "<b>bold</b>",
    "\u202eright",
    "\x00\n",
    "猫",
    "\ud800",
    " ",
]


def drawn():
    mixture = pd.DataFrame(
        {"step": [1] * len(HOSTILE), "token": HOSTILE, "prob": [0.1] * len(HOSTILE)}
    )
    yield charts.lines(FRAME, "x", "y", "kind", "low", "high", reference={"floor": 1})
    yield charts.scatter(FRAME, "x", "y", "kind", diagonal="y = x")
    yield charts.bars(FRAME, "kind", "y", "x", "low", "high", panel=None)
    yield charts.dots(FRAME, "y", "x", "kind", "low", "high", reference={"floor": 1})
    yield charts.mixture_bars(mixture, title="$hostile")
    yield charts.table(mixture)
    yield charts.lines(FRAME, "x", "y", panel="kind")
    gap = FRAME.assign(y=[*FRAME.y[:-1], None])
    yield charts.heatmap(gap, "x", "kind", "y", "kind", "hatched", apart="1")


@pytest.mark.filterwarnings("error")
def test_every_chart_is_drawn_from_any_text(tmp_path):
    for i, figure in enumerate(drawn()):
        name, folder = f"09_chart{i}", str(tmp_path)
        figures.save(figure, FRAME, name, "what is seen", "mini", figures_dir=folder)
        assert (tmp_path / f"{name}.png").stat().st_size > 2000


def test_saving_twice_gives_the_same_bytes(tmp_path):
    shown = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        figure = charts.lines(FRAME, "x", "y", "kind")
        image = figures.save(
            figure, FRAME, "09_x", "two lines", "mini", "G1 G2", str(folder)
        )
        shown.append({p.name: p.read_bytes() for p in folder.iterdir()})
        assert image.alt.startswith("two lines. a: 0.123 at 0 to 1 at 1; b: 2 at 0 to")
    assert shown[0] == shown[1]
    assert set(shown[0]) == {f"09_x.{k}" for k in ("png", "svg", "csv", "alt.json")}
    assert b"0.1235" in shown[0]["09_x.csv"] and b"0.123456" not in shown[0]["09_x.csv"]
    about = json.loads(shown[0]["09_x.alt.json"])
    assert about["alt"] == image.alt and about["claims"] == ["G1", "G2"]


def test_a_chart_says_in_words_what_it_shows():
    one = FRAME[FRAME.kind == "a"]
    assert alt_text.describe_values(one, "y", ("kind", "x")) == "0.0: 0.123; 1.0: 1."
    assert alt_text.describe_values(FRAME, "y", ("kind", "x")).startswith(
        "a, 0.0: 0.123; a, "
    )
    many = pd.DataFrame({"kind": ["a", "b"] * 20, "i": range(40), "y": [1.0, 2.0] * 20})
    assert alt_text.describe_values(many, "y", ("kind", "i")) == "a: 1; b: 2."
    hill = pd.DataFrame({"x": [0, 1, 2, 3], "y": [1.0, 9.0, 2.0, 3.0]})
    said = alt_text.describe_lines(hill, "x", "y", (None,))
    assert said == "1 at 0 to 9 at 1 to 2 at 2 to 3 at 3."
    assert alt_text.describe_points(hill, "x", "y", (None,)) == (
        "4 points, 1 to 9, rank correlation 0.40."
    )
    flat = hill.assign(y=1.0)
    assert alt_text.describe_points(flat, "x", "y", (None,)) == "4 points, 1."
    steps = pd.DataFrame(
        {"step": [1, 1, 2], "token": ["a", "b", "c"], "prob": [0.2, 0.7, 0.5]}
    )
    said = alt_text.describe_mixtures(steps, "step", "token", "prob", None)
    assert said == "step 1 b 0.7, step 2 c 0.5."


def test_what_was_not_run_is_no_zero():
    part = FRAME.drop(index=3)
    figure = charts.bars(part, "x", "y", "kind")
    marks = [t.get_text().strip() for t in figure.axes[0].texts]
    assert marks == ["not run"]
    assert not charts.bars(FRAME, "x", "y", "kind").axes[0].texts
    names = [f"n{i}" for i in range(9)]
    wide = pd.DataFrame({"x": [*names, "n0"], "y": 1.0, "kind": ["a"] * 9 + ["b"]})
    marks = charts.bars(wide, "x", "y", "kind").axes[0].texts
    at = [mark.get_position()[0] for mark in marks]
    assert len(at) == 8 and at == sorted(at)  # in the frame's order, on every run


def test_what_cannot_be_shown_well_is_refused(tmp_path):
    many = pd.DataFrame({"x": range(9), "y": range(9), "by": range(9)})
    with pytest.raises(ValueError, match="9 series"):
        charts.lines(many, "x", "y", "by")
    with pytest.raises(ValueError, match="9 values"):
        charts.lines(many, "x", "y", panel="by")
    with pytest.raises(ValueError, match="alt text is empty"):
        figures.save(None, many, "09_x", " ", "mini", figures_dir=str(tmp_path))


def test_model_text_is_spelled_out_where_it_cannot_be_drawn():
    assert safe_text.readable(" Paris") == "␣Paris" and safe_text.readable("  ") == "␣␣"
    assert safe_text.readable("a\u202eb\x00") == r"a\u202eb\x00"
    assert (
        safe_text.readable("猫") == r"\u732b" and safe_text.readable("ариж") == "ариж"
    )
    assert safe_text.readable("x" * 99) == "x" * 27 + "…"


def luminance(colour):
    parts = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in to_rgb(colour)
    ]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), parts))


def test_series_differ_by_more_than_colour():
    n = len(charts.COLOURS)
    assert len(set(charts.MARKERS[:n])) == len(set(map(str, charts.DASHES))) == n
    assert len(set(charts.HATCHES)) == n
    first, second = (luminance(c) for c in charts.COLOURS[:2])
    assert abs(first - second) > 0.05


class Loaded:
    name, revision, device, dtype = "", "", "cpu", "torch.float32"
    model = tiny_model("gpt2")


def test_provenance_names_no_folder_and_stays_the_same(tmp_path):
    asked = {"SET": "x", "BASE": "/some/where/model", "N": 3}
    for _ in range(2):
        figures.provenance("09_none", "x", asked, {"base": Loaded}, str(tmp_path))
        about = json.loads((tmp_path / "09_provenance.json").read_text())
        assert about["parameters"] == {"SET": "x", "BASE": "model", "N": 3}
        assert about["models"]["base"]["dtype"] == "float32"
        tables, whole = (100 + 64) * 32, Loaded.model.num_parameters()
        # positions count: they are no tokens' embeddings
        assert about["models"]["base"]["inner_parameters"] == whole - tables + 64 * 32
        assert about["versions"]["torch"] and "/some" not in json.dumps(about)


def test_provenance_names_file_hash_and_licence_of_public_weights(
    tmp_path, monkeypatch
):
    source = {"file": "x.gguf", "sha256": "ab" * 32, "licence": "Apache-2.0"}
    for name in ("public", "own"):
        (tmp_path / name).mkdir()
    (tmp_path / "public" / "source.json").write_text(json.dumps(source))
    monkeypatch.setattr(
        figures, "find_checkpoint", lambda name, _: (tmp_path / name, "")
    )
    kept = {}
    for name in ("public", "own"):
        loaded = type("Named", (Loaded,), {"name": name})
        figures.provenance("09_none", "x", {}, {"base": loaded}, str(tmp_path))
        about = json.loads((tmp_path / "09_provenance.json").read_text())
        kept[name] = about["models"]["base"]
    assert kept["public"]["source"] == source and "source" not in kept["own"]


def test_a_claim_is_followed_to_the_figures_that_bear_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr(figures.files, "ROOT", tmp_path)
    folder = tmp_path / "figures" / "mini"
    folder.mkdir(parents=True)
    for name, ids in (("04_b", ["N1", "N3"]), ("02_a", ["N1"])):
        path = folder / f"{name}.alt.json"
        path.write_text(json.dumps({"claims": ids}))
    assert figures.by_claim("mini", str(folder)) == {
        "N1": ["02_a", "04_b"],
        "N3": ["04_b"],
    }
