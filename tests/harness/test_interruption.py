"""Disks that fill or cannot be written, and deaths while files are put in place."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import files, fingerprint
from harness.run import cli, notebook_process
from tests.trial_runs import command, figures, write_notebook


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 16 MiB; where none can be mounted, the caller's own is not used."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    there = shutil.which("mount")
    if not there or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def refused(place, out, capsys, monkeypatch) -> str:
    monkeypatch.setenv("REPRODUCE_OUT", str(out))
    status = cli.main(command(place)[3:])
    printed = capsys.readouterr()
    assert status in (1, 2) and "Traceback" not in printed.out + printed.err
    return printed.out + printed.err


def test_a_disk_full_before_or_during_a_run(place, small_disk, capsys, monkeypatch):
    fill = f'open("{small_disk}/rest", "wb").write(bytes(2**25))'
    write_notebook(place / "notebooks", "01", extra=fill)
    said = refused(place, small_disk, capsys, monkeypatch)
    assert "No space left" in said or "disk full" in said, said
    assert not [*small_disk.glob("figures/trial/0*")]
    said = refused(place, small_disk, capsys, monkeypatch)  # still full
    assert "No space left" in said and "make room" in said and said.count("\n") == 1
    (small_disk / "rest").unlink()
    write_notebook(place / "notebooks", "01")
    assert cli.main(command(place)[3:]) == 0
    capsys.readouterr()


def test_output_that_is_read_only(place, small_disk, capsys, monkeypatch):
    write_notebook(place / "notebooks", "01")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    said = refused(place, small_disk, capsys, monkeypatch)
    assert "Read-only" in said and "must be writable" in said and said.count("\n") == 1


@pytest.mark.parametrize("number", [28, 30, 13])
def test_what_the_disk_says_is_one_line_with_advice(place, capsys, monkeypatch, number):
    def no(_):
        raise OSError(number, os.strerror(number), "/a/b/kept.csv")

    monkeypatch.setattr(files, "check_writable", no)
    write_notebook(place / "notebooks", "01")
    said = refused(place, place, capsys, monkeypatch)
    assert said.count("\n") == 1 and "(kept.csv): " in said and "/a/b" not in said


class Killed(BaseException):
    """Stands for SIGKILL: nothing may clean up after it that a kill would not."""


def test_a_death_between_any_two_files_is_seen_by_the_next_run(tmp_path, monkeypatch):
    """Whichever rename is the last, no half-kept notebook counts as finished."""
    rename, made = os.replace, []
    for last in range(7):
        out = tmp_path / str(last)
        monkeypatch.setenv("REPRODUCE_OUT", str(out))
        job = notebook_process.NotebookProcess(
            Path("01_x.ipynb"), "x", {}, {"asked": "new"}
        )
        for value in ("old", "new"):
            folder = out / "staged" / value
            for kind, names in (("figures", "01_a 01_b 01_c"), ("runs", "01_x.ipynb")):
                (folder / kind / "x").mkdir(parents=True)
                for name in names.split():
                    (folder / kind / "x" / name).write_text(value)
        old = notebook_process.NotebookProcess(
            Path("01_x.ipynb"), "x", {}, {"asked": "old"}
        )
        notebook_process.commit_outputs(old, out / "staged" / "old")
        assert notebook_process.is_up_to_date(old)
        assert not notebook_process.is_up_to_date(job)
        left = [last]

        def dies(a, b, left=left):
            if not left[0]:
                raise Killed
            left[0] -= 1
            rename(a, b)

        monkeypatch.setattr(os, "replace", dies)
        try:
            notebook_process.commit_outputs(job, out / "staged" / "new")
        except Killed:
            pass
        monkeypatch.setattr(os, "replace", rename)
        made.append(notebook_process.is_up_to_date(job))
        # before the first rename nothing was touched
        assert notebook_process.is_up_to_date(old) == (last == 0)
    assert made == [False] * 6 + [True]


def test_a_killed_run_s_leftovers_cannot_write_to_the_next(place, monkeypatch):
    monkeypatch.setenv("REPRODUCE_OUT", str(place))
    job = notebook_process.NotebookProcess(Path("01_x.ipynb"), "x", {}, {})
    mine = job.staging
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert job.staging != mine


def test_what_changes_while_it_runs_is_not_taken_for_done(place, go, monkeypatch):
    path = write_notebook(place / "notebooks", "01")
    extra = f'from pathlib import Path; p = Path("{path}"); t = p.read_text()\n'
    extra += 'p.write_text(t.replace("first.csv", "third.csv"))'
    write_notebook(place / "notebooks", "01", extra=extra)
    status, said, _ = go()
    assert status == 1 and "changed meanwhile: run it again" in said
    assert not figures(place)
    write_notebook(place / "notebooks", "01")
    assert go()[0] == 0 and "01_first.csv" in figures(place)


def test_a_model_that_changes_while_it_is_read_is_not_recorded(place, go, capsys):
    """Weights changed before a notebook has ended: not under the first hash."""
    weights = place / "model" / "tokenizer.model"
    weights.write_text("first")
    extra = f'from pathlib import Path; Path("{weights}").write_text("second")'
    write_notebook(place / "notebooks", "01", extra=extra)
    status, said, _ = go()
    assert status == 1 and "its models changed meanwhile: run it again" in said
    assert not figures(place)
    assert go()[0] == 0  # the same contents again, written anew


@pytest.mark.parametrize(
    "name",
    ["a.spm", "a.tiktoken", "additional_chat_templates/a.jinja", "parts/a.safetensors"],
)
def test_a_model_s_hash_sees_every_file_that_is_read(tmp_path, name):
    before = fingerprint.model_digest(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("1")
    one = fingerprint.model_digest(tmp_path)
    (tmp_path / name).write_text("2")
    assert len({before, one, fingerprint.model_digest(tmp_path)}) == 3


def test_a_model_s_hash_is_not_made_twice(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("1")
    before = fingerprint.model_digest(tmp_path)
    monkeypatch.setattr(fingerprint, "digest", lambda *_: pytest.fail("read again"))
    assert fingerprint.model_digest(tmp_path) == before


def test_a_killed_notebook_is_not_explained_by_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRODUCE_OUT", str(tmp_path))
    job = notebook_process.NotebookProcess(Path("01_x.ipynb"), "x", {}, {})
    folder = job.staging
    folder.mkdir(parents=True)
    (folder / "stderr").write_text("WARNING | some kernel's chatter")
    for status, said in ((-9, "out of memory?"), (1, "chatter")):
        job.process = subprocess.CompletedProcess([], status)
        notebook_process.end(job)
        assert job.state == "failed" and said in job.error


def test_what_a_kill_left_aside_is_swept_and_nothing_else(tmp_path):
    for name in (".verdicts.csv.ab12cd34", ".01_x.png.a_b2cd34"):
        (tmp_path / name).write_text("half")
    for name in (".gitignore", ".lock", "verdicts.csv", ".a.csv"):
        (tmp_path / name).write_text("whole")
    files.remove_partial_files(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".gitignore", ".lock", "verdicts.csv", ".a.csv"}


def test_every_shared_table_is_an_input_of_every_notebook(tmp_path, monkeypatch):
    book = write_notebook(tmp_path, "01")
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    monkeypatch.setattr(fingerprint, "code_files", lambda _: [])
    table = tmp_path / "figures" / "versions.csv"
    files.write_whole(table, "1")
    files.write_whole(tmp_path / "figures" / "mini" / "01_a.csv", "1")
    before = fingerprint.notebook_inputs(book)
    files.write_whole(tmp_path / "figures" / "mini" / "01_a.csv", "2")
    assert fingerprint.notebook_inputs(book) == before
    table.write_text("2")
    assert fingerprint.notebook_inputs(book) != before


ALIGNED = """
import torch
torch.manual_seed(0)
a, w = torch.randn(1, 128), torch.randn(500, 128)
def moved(x, by):
    room = torch.empty(x.numel() + 16)[by : by + x.numel()].view(x.shape)
    return room.copy_(x)
seen = {tuple((moved(a, i) @ moved(w, j).T)[0].tolist())
        for i in range(8) for j in range(8)}
files.write_whole(out / "01_seen.csv", f"{len(seen)}")
"""


def test_where_numbers_lie_in_memory_does_not_move_mini_s(place, go, monkeypatch):
    monkeypatch.setattr(fingerprint, "NOTEBOOKS", place / "notebooks")
    path = write_notebook(place / "notebooks", "01", extra=ALIGNED)
    job = notebook_process.NotebookProcess(path, "mini", {}, {})
    monkeypatch.setenv("REPRODUCE_OUT", str(place))
    notebook_process.start(job, side_by_side=True, cell_timeout=60)
    job.process.wait(60)
    kept = job.staging / "figures" / "mini" / "01_seen.csv"
    assert kept.read_text() == "1"


def test_threads_are_the_same_unless_asked(place, go, monkeypatch):
    extra = 'import os; threads = os.environ["OMP_NUM_THREADS"]\n'
    extra += 'files.write_whole(out / "01_t.csv", threads)'
    write_notebook(place / "notebooks", "01", extra=extra)
    monkeypatch.setenv("REPRODUCE_THREADS", "2")
    assert go("--jobs", "2")[0] == 0
    assert figures(place)["01_t.csv"] == "2"
