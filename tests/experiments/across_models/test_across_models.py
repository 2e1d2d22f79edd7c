"""Notebook 08 on planted folders of results: what it reads, pairs and refuses."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from experiments.across_models import beyond_top, original_frames, results
from harness import charts, claims, files, judge, tables, wording

MINI = files.ROOT / "figures" / "mini"
SETS = ("mini", "smollm2", "qwen-coder-0.5b")


def gains_csv(shift, prompts=60, prefix="", noise=0.01, seed=0):
    """Two templates a bin and more; every prompt gains `shift` bits but for noise."""
    rng = np.random.default_rng(seed)
    p_max = np.tile([0.3, 0.45, 0.5, 0.79], prompts // 2)  # 2 bins of `prompts` each
    rows = [
        {"prompt": f"{prefix}prompt {k}", "template": f"t{k // 8}", "p_max": p}
        | {"rule": rule, "gain_bits": shift + rng.normal(0, noise)}
        for k, p in enumerate(p_max)
        for rule in beyond_top.RULES
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def planted(tmp_path):
    """Folders of three sets, made from mini's csv files; gains 0, −.04 and .04 bits."""
    folders = {name: tmp_path / name for name in SETS}
    for name, shift in zip(SETS, (0.0, -0.04, 0.04)):
        folders[name].mkdir()
        for path in MINI.glob("[0-9]*.csv"):
            shutil.copy(path, folders[name])
        prefix = "in its world, " if name == "mini" else ""
        frame = gains_csv(shift, prefix=prefix, seed=len(name))
        frame.to_csv(folders[name] / "02_beyond_top.csv", index=False)
    return folders


def verdict(differences):
    rows = [
        claims.measured("R7", "difference", e, cell=", ".join(cell))
        for cell, e in differences.items()
    ]
    return judge.judge("R7", rows, "mini")


def test_pairs_are_public_sets_on_the_same_prompts_in_one_bin(planted):
    gains = beyond_top.read_gains(planted)
    differences = beyond_top.pair_differences(gains)
    assert {cell[0] for cell in differences} == {"smollm2 minus qwen-coder-0.5b"}
    assert {cell[2] for cell in differences} == {*beyond_top.BINS}
    for estimate in differences.values():  # 120 prompts, half of them in each bin
        assert estimate.value == pytest.approx(-0.08, abs=0.01)
        assert estimate.low < estimate.value < estimate.high < -0.02
    n = {cell[2]: estimate.n for cell, estimate in differences.items()}
    assert [n[name] for name in beyond_top.BINS] == [90, 30, 120]  # .5 in the lower bin
    judged = verdict(differences)
    assert judged.verdict == "not reproduced", wording.reason_text(judged)
    means = beyond_top.mean_gains(gains)
    assert means["mini", "as written", "p_max .3-.5"].value == pytest.approx(
        0, abs=0.01
    )


def test_a_prompt_counts_only_where_both_models_have_it_in_the_bin(planted):
    path = planted["smollm2"] / "02_beyond_top.csv"
    frame = pd.read_csv(path)
    frame.loc[frame["prompt"] == "prompt 0", "p_max"] = 0.7  # not in the same bin
    frame.loc[frame["prompt"] == "prompt 1", "p_max"] = 0.95  # in no bin
    frame.to_csv(path, index=False)
    pairs = beyond_top.paired(
        beyond_top.read_gains(planted), "smollm2", "qwen-coder-0.5b"
    )
    wide = pairs["bin"] == "p_max .3-.8"
    assert (sum(~wide), sum(wide)) == (2 * 118, 2 * 119)
    assert {*pairs["prompt"][wide]} - {*pairs["prompt"][~wide]} == {"prompt 0"}


@pytest.mark.parametrize(
    "shift,prompts,word",
    [(0.001, 60, "reproduced"), (0.02, 60, "not tested"), (0.001, 12, "not tested")],
    ids=["alike", "on the margin", "few prompts"],
)
def test_alike_is_shown_by_the_interval_not_by_few_prompts(
    planted, shift, prompts, word
):
    for name, gain in (("smollm2", 0.0), ("qwen-coder-0.5b", shift)):
        frame = gains_csv(gain, prompts, seed=len(name))
        if gain == 0.02:  # some templates gain much, some lose: the interval is wide
            frame["gain_bits"] += 0.06 * (-1.0) ** frame["template"].str[1:].astype(int)
        frame.to_csv(planted[name] / "02_beyond_top.csv", index=False)
    judged = verdict(beyond_top.pair_differences(beyond_top.read_gains(planted)))
    assert judged.verdict == word, wording.reason_text(judged)
    if prompts == 12:
        assert "fewer than 40 prompts" in wording.reason_text(judged)


def test_templates_are_drawn_whole(planted):
    """Gains that are alike within a template are as many as there are templates."""
    frame = gains_csv(0.0)
    by_template = frame["template"].factorize()[0] % 2 * 0.1
    for name, won in (("smollm2", by_template), ("qwen-coder-0.5b", 0.0)):
        path = planted[name] / "02_beyond_top.csv"
        frame.assign(gain_bits=won).to_csv(path, index=False)
    found = beyond_top.pair_differences(beyond_top.read_gains(planted))
    for estimate in found.values():
        as_prompts = 2 * 1.96 * 0.05 / np.sqrt(estimate.n)
        assert estimate.high - estimate.low > 1.3 * as_prompts


def test_without_public_sets_there_is_no_pair_and_that_is_the_reason(planted):
    only = {"mini": planted["mini"]}
    assert beyond_top.pair_differences(beyond_top.read_gains(only)) == {}
    (only["mini"] / "02_beyond_top.csv").unlink()
    gains = beyond_top.read_gains(only)
    assert gains.empty and beyond_top.mean_gains(gains) == {}
    assert beyond_top.estimates_table({}, "set").empty
    rows = [claims.not_tested("R7", beyond_top.NO_PAIR)]
    judged = judge.judge("R7", rows, "mini")
    assert (judged.verdict, judged.note) == ("not tested", beyond_top.NO_PAIR)


def spoil(frame, how):
    if how == "column":
        return frame.drop(columns="rule")
    if how == "rule":
        return frame.assign(rule="raw, k 50")
    if how == "twice":
        return pd.concat([frame, frame.head(1)])
    return frame.assign(gain_bits=frame["gain_bits"].where(frame.index > 0))


@pytest.mark.parametrize(
    "how,says",
    [
        ("column", "smollm2/02_beyond_top.csv has no column 'rule': run make"),
        ("rule", "rule 'raw, k 50': expected one of raw, k 20, as written"),
        ("twice", "smollm2, raw, k 20, prompt 0: the prompt stands twice"),
        (
            "number",
            "smollm2/02_beyond_top.csv has gain_bits that is no number: run make",
        ),
    ],
)
def test_a_csv_that_is_amiss_is_one_line(planted, how, says):
    path = planted["smollm2"] / "02_beyond_top.csv"
    spoil(pd.read_csv(path), how).to_csv(path, index=False)
    with pytest.raises(ValueError, match="^" + says) as refused:
        beyond_top.read_gains(planted)
    assert "\n" not in str(refused.value)


def test_the_headline_has_every_set_frame_and_share_with_n(planted):
    path = planted["smollm2"] / "02_original_runs.csv"
    frame = pd.read_csv(path)
    frame = frame[frame["run"] != "tag-alone"]
    text = {"run": "tag-alone", "value": 0.9, "low": 0.8, "high": 1.0, "n": 32}
    kinds = [{**text, "what": "any text, whole"}, {**text, "what": "any text, cut"}]
    pd.concat([frame, pd.DataFrame(kinds)]).to_csv(path, index=False)
    shares = original_frames.read_shares(planted)
    assert list(dict.fromkeys(shares["set"])) == [*SETS]
    assert "positions twice" not in " ".join(shares["frame"])
    order = [*original_frames.FRAMES.values()]
    own = shares.loc[shares["set"] == "smollm2", "frame"].map(order.index)
    assert own.is_monotonic_increasing and order[own.iloc[-1]] == order[-1]
    panels = ["mini, n = 64", "smollm2, n = 32 to 64", "qwen-coder-0.5b, n = 64"]
    named = original_frames.name_panels(shares)
    assert list(dict.fromkeys(named["panel"])) == panels
    table = original_frames.shares_table(shares)
    assert [*table.columns] == [*SETS]
    tag = table.loc["assistant tag alone: any text", "decoded whole"]
    assert tag["smollm2"] == "0.90 [0.80, 1.00], n = 32"
    assert tag["mini"] == tag["qwen-coder-0.5b"] != tag["smollm2"]
    figure = charts.dots(
        named, "value", "frame", "kind", "low", "high", "Said", panel="panel"
    )
    assert [axes.get_title(loc="left") for axes in figure.axes] == panels
    assert "smollm2, n = 32 to 64, after the original's cut" in figure.alt_text


def test_verdicts_side_by_side_are_those_of_each_sets_rows(planted):
    path = planted["smollm2"] / "01_generation.measured.csv"
    rows = pd.read_csv(path, keep_default_na=False)
    moved = rows["part"] == "mismatch_k1"
    rows.loc[moved, ["value", "low", "high"]] = 3.0
    rows.to_csv(path, index=False)
    beside = tables.side_by_side(planted)
    words = beside.pivot(index="id", columns="set", values="verdict")
    assert set(words.columns) == {*SETS} and "R7" not in words.index
    assert [*words.loc["G1", [*SETS]]] == ["reproduced", "partly", "reproduced"]
    apart = tables.differing(beside)
    assert {claim for claim, _ in apart.index} == {"G1"}
    assert [name for _, name in apart.index] == [*SETS]
    assert "0, 3, 0 and 0" in apart.loc[("G1", "smollm2"), "found"]


def test_a_set_is_described_by_its_models_and_weights(planted):
    source = {"numbers": "dequantised Q4_1", "licence": "Apache-2.0"}
    about = {"name": "smollm2-135m-instruct", "dtype": "float32", "source": source}
    text = pd.Series({"models": {"base": about, "instruct": about}}).to_json()
    (planted["smollm2"] / "02_provenance.json").write_text(text)
    row = results.describe_sets(planted).loc["smollm2"]
    assert row["models"] == "smollm2-135m-instruct"
    assert row["weights"] == "dequantised Q4_1, float32"
    numbers = sorted(p.name[:2] for p in planted["smollm2"].glob("*.measured.csv"))
    assert row["notebooks"] == " ".join(numbers) and len(numbers) > 3


def test_the_smallest_model_comes_first_and_one_of_no_known_size_is_left_out(planted):
    for name, size in (("smollm2", 1_310_340_608), ("qwen-coder-0.5b", 826_112)):
        about = {"models": {"base": {"name": name, "inner_parameters": size}}}
        (planted[name] / "02_provenance.json").write_text(json.dumps(about))
    sizes = results.base_sizes(planted)
    means = beyond_top.mean_gains(beyond_top.read_gains(planted))
    table = beyond_top.by_size(means, sizes)
    assert table.model.unique().tolist() == [
        "qwen-coder-0.5b, 0.83 M",
        "smollm2, 1,310 M",
    ]
    assert table.value.round(2).tolist() == [0.04, 0.04, -0.04, -0.04]
