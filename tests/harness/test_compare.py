"""What a rerun changed: planted differences are found, and sorted by what they mean."""

import subprocess

import pytest

from harness import files
from harness.run import cli, compare
from tests.trial_runs import write_notebook

MEASURED = """set,notebook,claim,cell,part,value,low,high,n,seed,reason
x,01_a,G1,m,rate,0.5,0.4,0.6,60,0,
x,01_a,G1,m,count,12.0,12.0,12.0,60,0,
x,01_a,G2,,deviation,4.4e-16,4.4e-16,4.4e-16,60,0,
x,01_a,G3,"a, b",,,,,,,no headroom
"""
BEFORE = {
    "verdicts.csv": "id,verdict,reason\nG1,reproduced,0.5 is 0.4\nG2,partly,\n",
    "01_a.measured.csv": MEASURED,
    "01_figure.csv": "step,token,prob\n1,cat,0.1234\n20,dog,-1.5e-05\n",
}


def results(changes=None):
    texts = BEFORE | (changes or {})
    tables = {name: text.encode() for name, text in texts.items() if text is not None}
    return compare.Results("what was there", tables)


def compared(name, old=None, new=None):
    """Compare after a replacement in one file, or (no `old`) after it is removed."""
    changed = None if old is None else BEFORE[name].replace(old, new)
    assert changed != BEFORE[name]
    return compare.compare(results(), results({name: changed}))


def test_the_same_results():
    found = compare.compare(results(), results())
    assert found.same_findings and found.equal == sorted(BEFORE)
    assert found.text().splitlines() == [
        "",
        "compared with what was there:",
        "  the same verdicts, 2 of 2",
        "  all 3 measured numbers inside their 95 % interval, exact ones "
        "equal within last digits",
        "  csv files: 3 equal",
    ]


def test_a_verdict_that_flips():
    found = compared("verdicts.csv", "G2,partly", "G2,reproduced")
    assert found.verdicts_that_differ == ["G2 partly, now reproduced"]
    assert not found.same_findings and not found.numbers_outside
    assert "verdicts that differ, 1 of 2: G2 partly, now repr" in found.text()
    gone = compared("verdicts.csv", "G2,partly,\n", "")
    assert gone.verdicts_that_differ == ["G2 partly, now absent"]


OUTSIDE = [
    (",rate,0.5,", ",rate,0.61,", "G1 m rate 0.5 [0.4, 0.6], now 0.61"),
    (",rate,0.5,", ",rate,0.39,", "G1 m rate 0.5 [0.4, 0.6], now 0.39"),
    (",count,12.0,", ",count,13.0,", "G1 m count 12.0, now 13.0"),
    (",4.4e-16,4.4e-16,4.4e-16,", ",2e-5,2e-5,2e-5,", "G2 deviation 4.4e-16, now 2e-5"),
    (",rate,0.5,0.4,0.6,60,0,", ",rate,,,,,,no model", "now not measured"),
    ("x,01_a,G1,m,count,12.0,12.0,12.0,60,0,\n", "", "G1 m count 12.0, now not"),
]


@pytest.mark.parametrize("old,new,said", OUTSIDE, ids=[said for *_, said in OUTSIDE])
def test_a_number_that_leaves_its_interval(old, new, said):
    found = compared("01_a.measured.csv", old, new)
    assert len(found.numbers_outside) == 1 and said in found.numbers_outside[0]
    assert not found.same_findings and not found.verdicts_that_differ
    assert "outside their 95 % interval, 1 of 3" in found.text()


INSIDE = [
    (",rate,0.5,", ",rate,0.45,"),
    (",count,12.0,", ",count,12.01,"),
    ("4.4e-16", "8.9e-16"),
    (",rate,0.5,0.4,0.6,", ",rate,0.5,0.45,0.7,"),
    ("no headroom", "no room"),
]


@pytest.mark.parametrize("old,new", INSIDE)
def test_a_number_that_stays_inside(old, new):
    found = compared("01_a.measured.csv", old, new)
    assert found.same_findings and found.equal == ["01_figure.csv", "verdicts.csv"]


FILES = [
    ("0.1234", "0.1235", "last_digits"), ("-1.5e-05", "-1.4e-05", "otherwise"),
    ("0.1234", "0.1334", "otherwise"), ("cat", "cow", "otherwise"),
    ("20,", "21,", "otherwise"), ("1,cat,0.1234\n", "", "otherwise"),
    ("-1.5e-05", "1.5e-05", "otherwise"),
]  # fmt: skip


@pytest.mark.parametrize("old,new,kind", FILES)
def test_files_differ_in_last_digits_or_otherwise(old, new, kind):
    found = compared("01_figure.csv", old, new)
    assert getattr(found, kind) == ["01_figure.csv"] and len(found.equal) == 2
    assert found.same_findings


def test_rounding_below_float32_s_is_the_last_digits():
    found = compared("01_a.measured.csv", "4.4e-16", "8.9e-16")
    assert found.last_digits == ["01_a.measured.csv"]


def test_files_that_are_missing_or_new():
    found = compared("01_figure.csv")
    assert found.missing == ["01_figure.csv"] and found.same_findings
    assert "1 missing (01_figure.csv)" in found.text()
    found = compare.compare(results({"01_figure.csv": None}), results())
    assert found.new == ["01_figure.csv"] and found.same_findings
    assert not compared("verdicts.csv").same_findings
    assert len(compared("01_a.measured.csv").numbers_outside) == 3


@pytest.mark.parametrize("cut", ["x,01_a,G1,m,ra", "set,notebook\n", "\n"])
def test_a_file_that_was_cut_is_named(cut):
    text = cut if cut.startswith("set") else MEASURED + cut + "te"
    with pytest.raises(ValueError, match="01_a.measured.csv is not whole"):
        compare.compare(results(), results({"01_a.measured.csv": text}))


def test_hostile_text_cannot_steer_the_terminal():
    found = compared("01_a.measured.csv", "G1,m,count,12", "G1,\x1b[2J,count,12")
    assert "\x1b" not in found.text()
    hostile = results({"01_a.measured.csv": MEASURED.replace("m,rate", "\x1b[2J,rate")})
    assert r"\x1b[2J" in compare.compare(hostile, results()).text()


# With git, and without


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout whose HEAD holds a set "x"."""
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.delenv("REPRODUCE_OUT", raising=False)
    for name, text in BEFORE.items():
        files.write_whole(tmp_path / "figures" / "x" / name, text)
    files.write_whole(tmp_path / "figures" / "x" / "01_figure.svg", "<svg/>")
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    return tmp_path


def test_check_compares_with_what_is_committed(checkout, capsys):
    figure = checkout / "figures" / "x" / "01_figure.csv"
    figure.write_text(BEFORE["01_figure.csv"].replace("cat", "cow"))
    assert cli.main(["check", "--set", "x"]) == 0
    said = capsys.readouterr().out
    assert "figures/x as committed (" in said and "the same verdicts, 2 of 2" in said
    assert "2 equal, 1 differ otherwise (01_figure.csv)" in said
    flipped = BEFORE["verdicts.csv"].replace("reproduced", "not reproduced")
    (checkout / "figures" / "x" / "verdicts.csv").write_text(flipped)
    assert cli.main(["check", "--set", "x"]) == 1
    assert "G1 reproduced, now not reproduced" in capsys.readouterr().out


def test_check_without_committed_results_is_one_line(checkout, capsys, monkeypatch):
    for asked in ("nope", "../x"):
        assert cli.main(["check", "--set", asked]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setenv("PATH", "")  # no git
    assert cli.main(["check", "--set", "x"]) == 2
    assert "check needs a git checkout" in capsys.readouterr().err


def test_reproduce_compares_with_the_earlier_files_without_git(place, go):
    write_notebook(place / "notebooks", "01")
    assert "no committed or earlier results of trial" in go()[1]
    said = go("-p", "N_PROMPTS=7")[1]
    assert "compared with the earlier files of figures/trial:" in said
    assert "the same verdicts" in said and "1 differ otherwise (01_first.csv)" in said
