"""Disks that fill or cannot be written, and deaths while files are put in place."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_run import command, environment, figures, go, place, write_notebook  # noqa: F401

from helpers import files, jobs, run


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


def refused(place, out, capsys, monkeypatch) -> str:  # noqa: F811
    monkeypatch.setenv("REPRODUCE_OUT", str(out))
    status = run.main(command(place)[3:])
    printed = capsys.readouterr()
    assert status in (1, 2) and "Traceback" not in printed.out + printed.err
    return printed.out + printed.err


def test_a_disk_full_before_or_during_a_run(
    place, small_disk, capsys, monkeypatch  # noqa: F811
):
    fill = f'open("{small_disk}/rest", "wb").write(bytes(2**25))'
    write_notebook(place / "notebooks", "01", extra=fill)
    said = refused(place, small_disk, capsys, monkeypatch)
    assert "No space left" in said or "disk full" in said, said
    assert not [*small_disk.glob("figures/trial/0*")]
    said = refused(place, small_disk, capsys, monkeypatch)  # still full
    assert "No space left" in said and "make room" in said and said.count("\n") == 1
    (small_disk / "rest").unlink()
    write_notebook(place / "notebooks", "01")
    assert run.main(command(place)[3:]) == 0
    capsys.readouterr()


def test_output_that_is_read_only(place, small_disk, capsys, monkeypatch):  # noqa: F811
    write_notebook(place / "notebooks", "01")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    said = refused(place, small_disk, capsys, monkeypatch)
    assert "Read-only" in said and "must be writable" in said and said.count("\n") == 1


@pytest.mark.parametrize("number", [28, 30, 13])
def test_what_the_disk_says_is_one_line_with_advice(
    place, capsys, monkeypatch, number  # noqa: F811
):
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
    for last in range(6):
        out = tmp_path / str(last)
        monkeypatch.setenv("REPRODUCE_OUT", str(out))
        job = jobs.Job(Path("01_x.ipynb"), {}, {"asked": "new"})
        for value in ("old", "new"):
            folder = out / "staged" / value
            for kind, names in (("figures", "01_a 01_b 01_c"), ("runs", "01_x.ipynb")):
                (folder / kind / "x").mkdir(parents=True)
                for name in names.split():
                    (folder / kind / "x" / name).write_text(value)
        old = jobs.Job(Path("01_x.ipynb"), {}, {"asked": "old"})
        jobs.keep(old, "x", out / "staged" / "old")
        assert jobs.finished(old, "x") and not jobs.finished(job, "x")
        left = [last]

        def dies(a, b, left=left):
            if not left[0]:
                raise Killed
            left[0] -= 1
            rename(a, b)

        monkeypatch.setattr(os, "replace", dies)
        try:
            jobs.keep(job, "x", out / "staged" / "new")
        except Killed:
            pass
        monkeypatch.setattr(os, "replace", rename)
        made.append(jobs.finished(job, "x"))
        assert not jobs.finished(old, "x")
    assert made == [False] * 5 + [True]


def test_a_killed_run_s_leftovers_cannot_write_to_the_next(place, monkeypatch):  # noqa: F811
    monkeypatch.setenv("REPRODUCE_OUT", str(place))
    job = jobs.Job(Path("01_x.ipynb"), {}, {})
    mine = jobs.staged(job, "x")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert jobs.staged(job, "x") != mine


def test_threads_are_the_same_unless_asked(place, go, monkeypatch):  # noqa: F811
    extra = 'import os; threads = os.environ["OMP_NUM_THREADS"]\n'
    extra += 'files.write_whole(out / "01_t.csv", threads)'
    write_notebook(place / "notebooks", "01", extra=extra)
    monkeypatch.setenv("REPRODUCE_THREADS", "2")
    assert go("--jobs", "2")[0] == 0
    assert figures(place)["01_t.csv"] == "2"
