"""Many models as jobs: the list, the cap, the table, and real executors."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import files
from harness.run import cli, sweep

EXECUTABLES = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")


def listed(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_text(text)
    return str(path)


def table(path):
    with open(path, newline="") as file:
        return {row["set"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "columns set and base"),
        ("set,base\n", "and a row"),
        ("set,model\na,mini-gpt2\n", "unknown column 'model'"),
        ("set,base\na,mini-gpt2\nA,mini-gpt2\n", "row 3: set 'A' is in the list twice"),
        ("set,base\nmini,mini-gpt2\n", "'mini' has models of its own"),
        ("set,base\nbench,mini-gpt2\n", "'bench' has models of its own"),
        ("set,base\nsmollm2,mini-gpt2\n", "'smollm2' has models of its own"),
        ("set,base,seed\na,mini-gpt2,-1\n", "seed '-1'"),
        ("set,base,seed\na,mini-gpt2,4294967296\n", "SEED=4294967296"),
        ("set,base\na\n", "1 cells for 2 columns"),
        ("set,base\na,no-such-model\n", "no-such-model"),
        ("set,base\na,\n", "needs BASE"),
        ("set,base\n../a,mini-gpt2\n", "SET='../a'"),
        ("set,base,dtype\na,mini-gpt2,int4\n", "DTYPE='int4'"),
    ],
)
def test_a_row_that_cannot_be_run_is_one_line_before_any_job(
    tmp_path, monkeypatch, capsys, text, said
):
    monkeypatch.setattr(sweep, "make_executor", None)  # nothing gets that far
    monkeypatch.setenv("REPRODUCE_OUT", str(tmp_path))
    path = listed(tmp_path, text)
    assert cli.main(["sweep", path, "--only", "01"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_at_most_as_many_at_a_time_as_asked_and_the_table_after_each(tmp_path):
    rows = [{"set": f"s{i}", "state": "waiting"} for i in range(5)]
    rows.append({"set": "old", "state": "up to date"})
    path, ended, most = tmp_path / "out.csv", [], []

    def submit(row):
        done = {"state": "failed", "why": "=bad\nline"} if row["set"] == "s1" else {}
        done = {"state": "done", "why": "", "seconds": 1.5, "peak_mb": 7} | done
        result_at = SimpleNamespace(exists=lambda: True)
        job = SimpleNamespace(paths=SimpleNamespace(result_pickle=result_at))
        job.result = lambda: ended.append(row["set"]) or done
        job.done = lambda: most.append(sum(r["state"] == "submitted" for r in rows))
        job.done = lambda check=job.done: check() is None
        return job

    sweep.run_rows(rows, submit, 2, lambda: sweep.write_results(rows, path))
    assert max(most) == 2 and sorted(ended) == ["s0", "s1", "s2", "s3", "s4"]
    found = table(path)
    assert found["old"]["state"] == "up to date" and found["s0"]["peak_mb"] == "7"
    assert found["s1"]["state"] == "failed" and found["s1"]["why"] == "'=bad line"


def test_an_interrupted_sweep_cancels_and_says_what_was_not_run(tmp_path):
    rows = [{"set": name, "state": "waiting"} for name in "ab"]
    cancelled = []

    def interrupt():
        raise KeyboardInterrupt

    job = SimpleNamespace(done=interrupt, cancel=lambda: cancelled.append(1))
    path = tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        sweep.run_rows(rows, lambda _: job, 1, lambda: sweep.write_results(rows, path))
    assert cancelled and table(path)["a"]["state"] == "stopped"
    assert table(path)["b"]["state"] == "waiting"


def test_a_job_says_why_it_failed_and_what_it_took(tmp_path):
    code = "import time; x = bytearray(5 * 10**7); print('error: no'); time.sleep(.5)"
    log = str(tmp_path / "a.log")
    failed = sweep.run_job([sys.executable, "-c", code + "; exit(1)"], log, {})
    assert failed["state"] == "failed" and failed["why"] == "error: no"
    assert failed["peak_mb"] > 40 and failed["seconds"] >= 0.5
    assert sweep.run_job([sys.executable, "-c", ""], log, {})["state"] == "done"


def swept(tmp_path, monkeypatch, cluster):
    """Sweep two good sets and a row whose model is broken when the job comes to it."""
    monkeypatch.setenv("REPRODUCE_OUT", str(tmp_path))
    monkeypatch.setattr(sweep, "check_row", lambda row, common: row["set"] == "old")
    commands = {"good": "print('well')", "bad": "exit('error: its weights lack x')"}
    monkeypatch.setattr(
        sweep,
        "job_command",
        lambda row, _: [sys.executable, "-c", commands[row["set"]]],
    )
    path = listed(tmp_path, "set,base\ngood,m\nbad,m\nold,m\n")
    earlier = [{"set": "old", "state": "done", "seconds": 9}]
    sweep.write_results(earlier, tmp_path / "runs" / "list.sweep.csv")
    assert sweep.sweep(path, cluster, parallel=2) == 1
    found = table(tmp_path / "runs" / "list.sweep.csv")
    assert {n: row["state"] for n, row in found.items()} == {
        "good": "done",
        "bad": "failed",
        "old": "up to date",
    }
    assert found["bad"]["why"] == "error: its weights lack x"
    assert found["old"]["seconds"] == "9"  # as the sweep that ran it measured
    log = tmp_path / "runs" / found["good"]["log"]
    assert log.read_text() == "well\n"
    assert not (tmp_path / "runs" / "list.sweep" / "old.log").exists()


def test_jobs_of_the_local_executor(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="submitit, an extra, is not installed")
    swept(tmp_path, monkeypatch, "local")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def slurm(monkeypatch):
    """A Slurm of one host on loopback, in a temporary folder; ended with the test."""
    search = os.environ["PATH"] + ":/usr/sbin:/sbin"
    found = {name: shutil.which(name, path=search) for name in EXECUTABLES}
    if None in found.values() or os.geteuid() != 0:
        pytest.skip("no slurm-wlm and munge here, or not root, who starts them")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    folder.chmod(0o755)  # munged refuses a folder that others may not search
    key, munge, host = folder / "key", folder / "munge", socket.gethostname()
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (folder / "slurm.conf").write_text(f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
AuthType=auth/munge
AuthInfo=socket={munge}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
""")
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("PATH", search)
    files_of = [f"--socket={munge}", f"--key-file={key}", f"--seed-file={folder}/seed"]
    files_of += [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log"]
    commands = [
        ["munged", "--foreground", "--force", *files_of],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D"],
    ]
    daemons = []
    try:
        for command in commands:
            with open(folder / f"{command[0]}.out", "wb") as output:
                how = {"stdout": output, "stderr": subprocess.STDOUT}
                daemons.append(subprocess.Popen(command, **how))
            until = time.monotonic() + 5
            while command[0] == "munged" and not munge.exists():
                assert time.monotonic() < until, (folder / "munged.out").read_text()
                time.sleep(0.1)
        state, until = "", time.monotonic() + 20
        while "idle" not in state and time.monotonic() < until:
            asked = ["sinfo", "--noheader", "--format=%T"]
            state = subprocess.run(asked, capture_output=True, text=True).stdout
            time.sleep(0.3)
        logs = [p.read_text()[-600:] for p in folder.glob("*.out")]
        assert "idle" in state, f"{state}: {logs}"
        yield folder
    finally:
        until = time.monotonic() + 15  # a job's own daemon outlives Slurm's otherwise
        asked = ["squeue", "--noheader"]
        while len(daemons) == 3 and time.monotonic() < until:
            if not subprocess.run(asked, capture_output=True).stdout:
                break
            subprocess.run(["scancel", "--user=root"], capture_output=True)
            time.sleep(0.5)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_jobs_of_a_real_slurm(tmp_path, monkeypatch, slurm):
    pytest.importorskip("submitit", reason="submitit, an extra, is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(files.ROOT), *sys.path]))

    def give_up(*_):
        asked = ["scontrol", "show", "job"]  # a job that waits says what for
        raise TimeoutError(subprocess.run(asked, capture_output=True).stdout[:900])

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    try:
        swept(tmp_path, monkeypatch, "slurm")
    finally:
        signal.alarm(0)
