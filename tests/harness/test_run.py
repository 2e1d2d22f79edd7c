"""Running notebooks, shown on throw-away ones: resume, refusals, kills, two at once."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from harness import files, fingerprint
from harness.claims import claim_row
from harness.clauses import parse_rule
from harness.publish import pages
from harness.run import cli, notebook_process, options
from helpers import checkpoints
from tests.trial_runs import command, environment, figures, write_notebook


def test_run_resume_and_rerun(place, go):
    first = write_notebook(place / "notebooks", "01")
    write_notebook(place / "notebooks", "02")
    write_notebook(place / "notebooks", "00")
    asked = ("-p", "N_PROMPTS=7", "--seed", "3", "--jobs", "2")
    status, said, errors = go(*asked)
    assert status == 0, errors
    whole = {
        "01_first.csv": "3,7", "01_second.csv": "done",
        "02_first.csv": "3,7", "02_second.csv": "done",
    }  # fmt: skip
    assert figures(place) == whole
    lines = [line for line in said.splitlines() if "_trial" in line]
    assert len(lines) == 2 and all(" done " in line for line in lines)
    assert "verdicts on trial" in said and "\nG1 " in said
    assert (place / "figures" / "trial" / "verdicts.csv").exists()
    assert not (place / "runs" / "trial" / ".staging").exists()
    assert go(*asked)[1].count("up to date") == 2

    # a changed notebook, a lost figure: those alone are run again
    first = write_notebook(place / "notebooks", "01", extra="pass")
    assert first.exists() and go(*asked)[1].count("up to date") == 1
    (place / "figures" / "trial" / "02_second.csv").write_text("by hand")
    assert go(*asked)[1].count("up to date") == 1
    assert figures(place) == whole


def test_a_failing_notebook_is_one_line_and_loses_nothing(place, go):
    write_notebook(place / "notebooks", "01")
    bad = 'raise ValueError("top_k=0: expected at least 1\\nmore")'
    write_notebook(place / "notebooks", "02", extra=bad)
    status, said, errors = go("--jobs", "2")
    assert status == 1
    line = next(x for x in said.splitlines() if x.startswith("02_trial"))
    assert "ValueError: top_k=0: expected at least 1" in line and "more" not in line
    assert set(figures(place)) == {"01_first.csv", "01_second.csv"}
    assert not (place / "figures" / "trial" / "verdicts.csv").exists()
    assert (place / "runs" / "trial" / "02_trial.failed.ipynb").exists()
    assert "Traceback" not in said + errors


READS = """
from pathlib import Path
kept = files.set_folders()
files.write_whole(out / "02_seen.csv", f"{[*kept]} {[*kept['trial'].glob('01_f*')]}")
"""
LEAVES = 'files.write_whole(files.run_dir(SET) / "01_trial.measured.csv", "claim\\n")'


def test_the_notebook_that_reads_all_sets_runs_last(place, go, monkeypatch):
    monkeypatch.setattr(fingerprint, "ACROSS", "02_trial")
    write_notebook(place / "notebooks", "02", extra=READS)
    write_notebook(place / "notebooks", "01", extra=LEAVES)
    asked = ("-p", "PAUSE=0.5", "--jobs", "2")
    status, _, errors = go(*asked)
    assert status == 0, errors
    seen = place / "figures" / "trial" / "02_seen.csv"
    assert "01_first.csv" in seen.read_text()  # of this run, though side by side
    assert go(*asked)[1].count("up to date") == 2

    # another set's results, or this one's, make it stale, and it alone
    other = place / "figures" / "other" / "01_trial.measured.csv"
    files.write_whole(other, "claim\n")
    said = go(*asked)[1]
    assert said.count("up to date") == 1 and "'other'" in seen.read_text()
    assert go(*asked)[1].count("up to date") == 2

    # it does not read what a failed notebook should have replaced
    bad = 'raise ValueError("no")'
    write_notebook(place / "notebooks", "01", extra=bad)
    status, said, _ = go(*asked)
    assert status == 1 and "it reads what 01_trial should have left" in said


@pytest.mark.parametrize("moment", [0.8, 3.0])
def test_killed_at_any_moment_the_next_run_finishes(place, go, moment):
    write_notebook(place / "notebooks", "01")
    process = subprocess.Popen(
        command(place, "-p", "PAUSE=1.5"), env=environment(place), cwd=files.ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shown = figures(place)
    assert shown == {} or len(shown) == 2  # all of a notebook's files or none
    status, _, errors = go("-p", "PAUSE=1.5")
    assert status == 0, errors
    assert figures(place) == {"01_first.csv": "0,60", "01_second.csv": "done"}


def test_interrupt_is_one_line_and_leaves_no_process(place):
    write_notebook(place / "notebooks", "01")
    process = subprocess.Popen(
        command(place, "-p", "PAUSE=60.0"), env=environment(place), cwd=files.ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # a shell that starts the tests in the background has its children ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    staging = place / "runs" / "trial" / ".staging"
    deadline = time.monotonic() + 60
    while not staging.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "stopped; the same command goes on from here"
    assert not staging.exists()


def test_two_runs_at_once_take_turns(place):
    write_notebook(place / "notebooks", "01")
    two = [
        subprocess.Popen(
            command(place, "-p", "PAUSE=0.5"), env=environment(place), cwd=files.ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [p.communicate(timeout=120) for p in two]
    assert [p.returncode for p in two] == [0, 0], said
    both = "".join(out for out, _ in said)
    assert both.count(" done ") == 1 and both.count("up to date") == 1


def test_a_figure_that_is_no_longer_drawn_is_deleted_and_no_other(place, monkeypatch):
    monkeypatch.setenv("REPRODUCE_OUT", str(place))
    job = notebook_process.NotebookProcess(
        place / "01_trial.ipynb", "trial", {}, {"SEED": 1}, seconds=2.04
    )
    job.peak_bytes, job.cpu_seconds = 2**22, 1.26
    there, staged = place / "figures" / "trial", place / "staged"
    for name in ("01_lost.txt", "01_kept.csv"):  # of an earlier run
        files.write_whole(staged / "figures" / "trial" / name, "old")
    notebook_process.commit_outputs(job, staged)
    theirs = ["01_notes.md", "010_more.png", "02_other.png", "verdicts.csv"]
    for name in theirs:
        files.write_whole(there / name, "old")
    (place / "elsewhere").write_text("old")
    (there / "01_link.md").symlink_to(place / "elsewhere")
    for kind in ("alt.json", "csv", "svg"):  # drawn before; of a run that is not here
        files.write_whole(there / f"01_older.{kind}", "old")
    files.write_whole(staged / "figures" / "trial" / "01_kept.csv", "new")
    files.write_whole(staged / "runs" / "trial" / "01_trial.measured.csv", "rows")
    files.write_whole(staged / "runs" / "trial" / "01_trial.ipynb", "book")
    notebook_process.commit_outputs(job, staged)
    assert {p.name: p.read_text() for p in there.iterdir()} == {
        "01_kept.csv": "new", "01_trial.measured.csv": "rows",
        **dict.fromkeys([*theirs, "01_link.md"], "old"),
    }  # fmt: skip
    done = json.loads((place / "runs" / "trial" / "01_trial.done.json").read_text())
    assert (done["seconds"], done["peak_mb"], done["cpu_seconds"]) == (2.0, 4, 1.3)
    names = ["figures/trial/01_kept.csv", "figures/trial/01_trial.measured.csv"]
    names += ["runs/trial/01_trial.ipynb", "runs/trial/01_trial.measured.csv"]
    assert list(done["outputs"]) == names and notebook_process.is_up_to_date(job)
    (there / "01_kept.csv").unlink()
    assert not notebook_process.is_up_to_date(job)


REFUSED = [
    (["-p", "N_PROMTS=5"], "no notebook has a parameter 'N_PROMTS'"),
    (["-p", "N_PROMPTS=few"], "expected int, like 60"),
    (["-p", "BASE=x"], "has a setting of its own"),
    (["-p", "nonsense"], "expected NAME=value"),
    (["--dtype", "float8"], "expected one of float32"),
    (["--device", "tpu"], "expected auto, cpu, cuda"),
    (["--set", "../x"], "use letters"),
    (["--base", "nowhere"], "no model 'nowhere'"),
    (["--only", "09"], "no notebook '09'"),
    (["--instruct", "{model}"], "no chat template"),
    (["--set", "mini"], "a set of their own"),
    (["--jobs", "-1"], "JOBS=-1"),
    (["--cell-timeout", "0"], "CELL_TIMEOUT=0: expected at least 1 second"),
    (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
]


@pytest.mark.parametrize("more,message", REFUSED, ids=[m for _, m in REFUSED])
def test_refusals_are_one_line_before_any_work(
    place, more, message, capsys, monkeypatch
):
    monkeypatch.setenv("REPRODUCE_OUT", str(place))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_notebook(place / "notebooks", "01")
    more = [str(place / "model") if m == "{model}" else m for m in more]
    assert cli.main(command(place, *more)[3:]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert not (place / "runs").exists() and not (place / "figures").exists()


def test_refusals_come_before_torch():
    code = (
        "import sys; from harness.run import cli as run;"
        "status = run.main(['reproduce', '--set', 'x', '--base', 'y', '--dtype', 'z']);"
        "sys.exit(10 if {'torch', 'pandas'} & {*sys.modules} else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=files.ROOT)
    assert done.returncode == 2


def test_output_that_cannot_be_written_is_one_line(place, capsys, monkeypatch):
    write_notebook(place / "notebooks", "01")
    (place / "blocked").write_text("a file where a folder should be")
    monkeypatch.setenv("REPRODUCE_OUT", str(place / "blocked"))
    assert cli.main(command(place)[3:]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    target = tmp_path / "a.csv"
    files.write_whole(target, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        files.write_whole(target, "new")
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.csv"]


def test_a_notebook_is_stale_when_anything_it_rests_on_changes(tmp_path, monkeypatch):
    book = write_notebook(tmp_path, "01", extra="from harness import claims")
    before = notebook_process.input_fingerprint(book, {}, {"BASE": "a"})
    assert before == notebook_process.input_fingerprint(book, {}, {"BASE": "a"})
    assert before != notebook_process.input_fingerprint(
        book, {"SEED": 1}, {"BASE": "a"}
    )
    assert before != notebook_process.input_fingerprint(book, {}, {"BASE": "b"})
    read = {p.name for p in fingerprint.code_files(book)}
    assert {"claims.py", "clauses.py", "files.py"} <= read and "cli.py" not in read
    saved = json.loads(book.read_text())
    saved["cells"][1]["outputs"] = [
        {"output_type": "stream", "name": "stdout", "text": "x"}
    ]
    saved["metadata"]["papermill"] = {"duration": 1}
    book.write_text(json.dumps(saved))
    assert before == notebook_process.input_fingerprint(book, {}, {"BASE": "a"})


def test_a_notebooks_own_experiments_count_and_no_others():
    read = fingerprint.code_files(fingerprint.NOTEBOOKS / "01_generation.ipynb")
    rooms = {p.parent.name for p in read}
    assert {"generation", "experiments", "helpers", "models", "harness"} == rooms
    read = fingerprint.code_files(fingerprint.NOTEBOOKS / "06_trained_reading.ipynb")
    rooms = {p.parent.name for p in read}
    assert {"trained_reading", "information_analysis", "learned"} <= rooms
    assert "translation" not in rooms


def test_parameters_take_the_type_of_their_default(place):
    book = write_notebook(place / "notebooks", "01")
    asked = {"SET": "mini", "PAUSE": "2", "N_PROMPTS": "60", "BASE": "x"}
    assert options.fit_parameters([book], asked) == [{"PAUSE": 2.0, "BASE": "x"}]


def test_publishing_copies_outputs_without_what_changes(place, monkeypatch, capsys):
    executed = json.loads(write_notebook(place / "notebooks", "01").read_text())
    executed["metadata"]["papermill"] = {"duration": 1.0}
    cell = executed["cells"][1]
    cell["execution_count"], cell["metadata"]["execution"] = 2, {"iopub": "now"}
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["seen\n"]}]
    out = place / "runs" / "mini"
    out.mkdir(parents=True)
    (out / "01_trial.ipynb").write_text(json.dumps(executed))
    monkeypatch.setenv("REPRODUCE_OUT", str(place))
    monkeypatch.setattr(files, "ROOT", place)
    (place / "README.md").write_text("hand-written\n")
    files.write_whole(place / "models" / "weights.csv", "name,set\n")
    path = place / "notebooks" / "01_trial.ipynb"
    job = notebook_process.NotebookProcess(path, "mini", {}, {})
    with pytest.raises(ValueError, match="01_trial not up to date"):
        pages.publish([job], lambda _: False)
    with pytest.raises(ValueError, match="not up to date"):
        pages.publish(
            [notebook_process.NotebookProcess(path, "mini", {"SEED": 1}, {})],
            lambda _: True,
        )
    pages.publish([job], lambda _: True)
    text = path.read_text()
    assert "seen" in text and '"execution_count": 2' in text
    assert "papermill" not in text and "iopub" not in text
    assert capsys.readouterr().out == "published notebooks/01_trial.ipynb\n"
    pages.publish([job], lambda _: True)
    assert capsys.readouterr().out == ""  # the same again changes nothing


def test_the_named_sets_are_the_design_s():
    assert options.MODEL_SETS["mini"] == ("mini-gpt2", "mini-qwen2")
    paper = (checkpoints.GPT2[0], checkpoints.QWEN[0])
    assert options.MODEL_SETS["paper"] == paper


SECTIONED = ["# A trial\n\nwords", "one = 1", "## First\n### Its \u202epart", "two = 2"]


def write_sectioned(place):
    """A notebook of three sections, the second at cell 4 of 5 with no heading after."""
    path = write_notebook(place / "notebooks", "01")
    book = nbformat.read(path, as_version=4)
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    book.cells += [(code if " = " in s else markdown)(s) for s in SECTIONED]
    book.cells += [code("three = 3"), markdown("## Last")]
    nbformat.write(book, path)
    return path


def test_off_a_terminal_each_section_is_a_line_once(place, go):
    write_sectioned(place)
    status, said, errors = go("-p", "N_PROMPTS=7")
    assert status == 0, errors
    lines = [line.split() for line in said.splitlines() if " cell " in line]
    assert [line[:5] for line in lines] == [
        ["01_trial", "cell", "4", "of", "6"],  # papermill adds one with N_PROMPTS
        ["01_trial", "cell", "5", "of", "6"],
    ]
    assert [line[6:] for line in lines] == [
        ["s", "A", "trial"], ["s", "Its", r"\u202epart"],
    ]  # fmt: skip


def test_on_a_terminal_one_line_shows_all_running_notebooks():
    running = [
        notebook_process.NotebookProcess(
            files.ROOT / f"{name}.ipynb", "mini", {}, {}, started_at=time.monotonic(),
            position=notebook_process.Position(3, 20, "A section with a long title"),
        )
        for name in ("01_generation", "02_translation")
    ]  # fmt: skip
    line = cli.progress_line(running, 200)
    for name in ("01_generation", "02_translation"):
        assert f"{name} cell 3 of 20, 0 s, A section with a long title" in line
    short = cli.progress_line(running, 80)
    assert len(short) < 80 and short.count(" cell 3 of 20, 0 s") == 2


def test_a_cell_that_hangs_ends_in_one_line_that_says_how_to_wait(place, go):
    write_sectioned(place)
    path = write_notebook(place / "notebooks", "02")
    status, said, _ = go("--cell-timeout", "2", "-p", "PAUSE=60.0", "--only", "02")
    assert path.exists() and status == 1
    (line,) = (x for x in said.splitlines() if x.startswith("02_trial"))
    assert "cell 3 (no heading) took longer than 2 s" in line
    assert "CELL_TIMEOUT=seconds (--cell-timeout)" in line
    assert not figures(place)
    assert (place / "runs" / "trial" / "02_trial.failed.ipynb").exists()


def test_how_long_a_cell_may_take_depends_on_the_models(place):
    write_notebook(place / "notebooks", "01")
    asked = {"notebooks": place / "notebooks"}
    assert options.run_request("mini", **asked).cell_timeout == 600
    asked["base"] = str(place / "model")
    assert options.run_request("trial", **asked).cell_timeout == 3600
    assert options.run_request("trial", cell_timeout=5, **asked).cell_timeout == 5


def test_a_public_set_is_fetched_once_all_else_is_in_order(monkeypatch, tmp_path):
    fetched = []

    def fetch(name):
        fetched.append(name)
        return tmp_path / name

    monkeypatch.setattr(options.public, "fetch", fetch)
    monkeypatch.setattr(options, "check_models", lambda common, dtypes: None)
    with pytest.raises(ValueError, match="DTYPE='int4'"):
        options.run_request("smollm2", dtype="int4")
    with pytest.raises(ValueError, match="leave BASE and INSTRUCT out"):
        options.run_request("smollm2", base="mini-gpt2")
    assert not fetched
    asked = options.run_request("smollm2")
    both = {asked.common_parameters[word] for word in ("BASE", "INSTRUCT")}
    assert both == {str(tmp_path / "smollm2-135m-instruct")} and len(fetched) == 1


def test_a_larger_model_is_asked_less_and_what_the_user_gives_comes_first(
    place, go, monkeypatch
):
    write_notebook(place / "notebooks", "01")
    write_notebook(place / "notebooks", "02")
    table = place / "sizes.csv"
    rows = ["set,notebook,parameter,value", "trial,01_trial,N_PROMPTS,7"]
    table.write_text("\n".join([*rows, "other,02_trial,N_PROMPTS,9", ""]))
    monkeypatch.setattr(options, "SIZES", table)
    asked = {"notebooks": place / "notebooks", "base": str(place / "model")}
    request = options.run_request("trial", **asked)
    given = [parameters.get("N_PROMPTS") for _, parameters in request.notebooks]
    assert given == [7, None] and request.sizes == {"01_trial": {"N_PROMPTS": "7"}}
    request = options.run_request("trial", parameters=["N_PROMPTS=8"], **asked)
    assert [p["N_PROMPTS"] for _, p in request.notebooks] == [8, 8]
    assert not request.sizes
    table.write_text("\n".join([rows[0], "trial,01_trial,DTYPE,bfloat16", ""]))
    for dtype, expected in ((None, ["bfloat16", None]), ("float32", [None, None])):
        request = options.run_request("trial", dtype=dtype, **asked)
        assert [p.get("DTYPE") for _, p in request.notebooks] == expected
    table.write_text("\n".join([rows[0], "trial,01_trial,N_ITEM,7", ""]))
    with pytest.raises(ValueError, match="sizes.csv: 01_trial has no parameter 'N_I"):
        options.run_request("trial", **asked)


def test_sizes_leave_the_rules_what_they_count():
    """models/sizes.csv takes no claim of 02 to 05 below the n that its rule needs."""
    needed = {
        ("02_translation", "N_PROMPTS"): ("R1", "R4", "R6"),
        ("02_translation", "N_ITEMS"): ("R2",),
        ("02_translation", "DTYPE"): (),
        ("03_token_id_brittleness", "N_PROMPTS"): ("I1", "I3"),
        ("03_token_id_brittleness", "N_SEARCH"): ("I2",),
        ("03_token_id_brittleness", "N_INSTRUCTIONS"): ("I4",),
        ("03_token_id_brittleness", "N_EDITED"): (),
        ("03_token_id_brittleness", "N_PLANTED"): (),
        ("03_token_id_brittleness", "N_SETTINGS"): (),  # bare is asked of N_PROMPTS
        ("04_information_analysis", "N_PROMPTS"): ("N2",),
        ("04_information_analysis", "N_SOLVED"): ("N1", "N3", "N5"),
        ("04_information_analysis", "N_TASK"): ("N6",),
        ("05_weight_rules", "N_CHAINS"): ("W4",),  # a row a prompt and draw
        ("05_weight_rules", "STEPS"): (),
    }
    with options.SIZES.open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["notebook"][:2] in "02 03 04 05"]
    for row in rows:
        for claim in needed[row["notebook"], row["parameter"]]:
            clauses = parse_rule(claim_row(claim)["rule"])
            least = max(int(c.arguments[1]) for c in clauses if c.check == "count")
            times = 2 if claim == "W4" else 1  # draws
            assert int(row["value"]) * times >= least, (claim, row)


def test_sizes_name_sets_notebooks_and_parameters_that_are_there():
    with options.SIZES.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({tuple(row.values())[:3] for row in rows}) == len(rows)
    assert {row["set"] for row in rows} <= set(options.public_sets())
    for set_name in options.public_sets():
        paths = options.select_notebooks(fingerprint.NOTEBOOKS, ())
        names = [path.stem for path in paths]
        assert {row["notebook"] for row in rows} <= {*names}
        options.fit_parameters(paths, {}, options.set_sizes(set_name, names, {}))
