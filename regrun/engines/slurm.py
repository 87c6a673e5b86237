"""Stacks as Slurm jobs, submitted through submitit and watched by squeue, which needs no accounting database.

A folder is trained in once, so Slurm requeues no job: what a preemption, a time limit or a lost node leaves undone
comes back as a new job, which goes on from the last checkpoint. Jobs outlive a driver that was killed; the next driver
of the same sweep ends them before it starts its own.
"""

import getpass
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from regrun.engines.tasks import Lost, Task
from regrun.engines.work import has_begun, train_folder
from regrun.errors import ConfigError, EnvironmentFault
from regrun.launchers import Slurm

FIELDS = "JobID:20,State:20,exit_code:12,NodeList:200"
SOON = 1.0  # seconds between two calls of squeue while some job is about to end
SILENCE = 900.0  # seconds for which Slurm may give no answer: its jobs go on without its controller
CHECKPOINTS = 20.0  # seconds that jobs get to write their checkpoints
CLOSING = 60.0  # seconds that cancelled jobs get to end; Slurm kills them after its KillWait, usually 30
# What tells a job to end (a preemption, its time limit, us) tells the shell, too: it must outlive the checkpoint.
SURVIVE = "trap : TERM USR1 USR2"
NOT_NOW = ("not available", "busy")  # sbatch of nodes that exist and may come back
ENDS = {
    "COMPLETED": None,
    "FAILED": "its process {how}; see {log}",
    "CANCELLED": "its job was cancelled",
    "TIMEOUT": "its job took longer than hydra.launcher.timeout_min",
    "OUT_OF_MEMORY": "its job needs more memory than it had (hydra.launcher.mem_gb)",
    "NODE_FAIL": "node {node} was lost",
    "BOOT_FAIL": "node {node} did not boot",
    "PREEMPTED": "its job was preempted",
    "DEADLINE": "its job missed its deadline",
    "REVOKED": "its job was revoked",
    "": "Slurm no longer knows its job",  # as it does some minutes after every job's end
}
LOST = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED")


def check(launcher: Slurm) -> None:
    """Raise ConfigError if what this needs is not installed, or sbatch would refuse the jobs."""
    if find_spec("submitit") is None:
        line = 'hydra/launcher: slurm needs submitit, which is not installed; pip install "regrun[slurm]"'
        raise ConfigError(line)
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ConfigError("hydra/launcher: slurm needs sbatch, which this machine lacks; go to one of the cluster's")
    script = _executor(launcher, Path("slurm"), "regrun")._make_submission_file_text("true", "")
    with _outside_of_a_job():
        tried = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True, check=False)
    if tried.returncode and not any(words in tried.stderr for words in NOT_NOW):
        raise ConfigError(f"hydra.launcher: sbatch refuses such jobs: {_last_line(tried.stderr)}")


class SlurmEngine:
    """One job for each task, with submitit's files in the folder `slurm` of the stack's."""

    def __init__(self, launcher: Slurm, root: Path) -> None:
        self.slots, self.launcher = launcher.jobs, launcher
        self.name = f"regrun-{hashlib.sha256(bytes(root.resolve())).hexdigest()[:10]}"
        self.whose = [f"--user={getpass.getuser()}", f"--name={self.name}"]
        self.running: dict[Task, Any] = {}  # submitit's jobs
        self.asked, self.answered, self.soon = 0.0, time.monotonic(), False
        _told("scancel", "--quiet", *self.whose)

    def start(self, task: Task) -> None:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        folder = task.folder.absolute()
        executor = _executor(self.launcher, folder / "slurm", self.name)
        try:
            with _outside_of_a_job():
                self.running[task] = executor.submit(train_folder, str(folder))
        except (FailedJobError, FailedSubmissionError) as error:
            raise EnvironmentFault(f"hydra/launcher: sbatch refused a job: {_last_line(str(error))}") from error

    def wait(self, seconds: float) -> list[tuple[Task, str | None]]:
        deadline = time.monotonic() + seconds
        while not (ended := self._look()) and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, SOON))
        return ended

    def _look(self) -> list[tuple[Task, str | None]]:
        """The tasks whose jobs have ended, if it is time to ask squeue."""
        soon = self.soon or any(job.paths.result_pickle.exists() for job in self.running.values())
        if time.monotonic() - self.asked < (SOON if soon else self.launcher.poll_seconds):
            return []
        rows = self._ask()
        over = [(task, row) for task, row in rows.items() if row[0] in ENDS]
        self.soon = self.soon and not over
        return [(task, _why(self.running.pop(task), *row)) for task, row in over]

    def _ask(self) -> dict[Task, list[str]]:
        """Each task's state, wait status and node, as far as they are known; empty if Slurm gives no answer now."""
        self.asked = time.monotonic()
        try:
            text = _told("squeue", "--noheader", "--states=all", f"--Format={FIELDS}", *self.whose)
        except EnvironmentFault:
            if time.monotonic() - self.answered > SILENCE:
                raise
            return {}
        self.answered = time.monotonic()
        rows = {row[0]: row[1:] for row in map(str.split, text.splitlines())}
        return {task: rows.get(job.job_id, [""]) for task, job in self.running.items()}

    def kill(self, task: Task) -> None:
        _told("scancel", "--quiet", self.running[task].job_id)
        self.soon = True

    def close(self) -> None:
        if self.running:
            # A job that waits for a node can hear no signal, and scancel would then tell none of the others either.
            _told("scancel", "--quiet", "--full", "--signal=TERM", "--state=RUNNING", *self.whose)
            self._drain(CHECKPOINTS, lambda: any(has_begun(task.folder) for task in self.running))
        _told("scancel", "--quiet", *self.whose)
        self._drain(CLOSING, lambda: bool(self.running))

    def _drain(self, seconds: float, goes_on: Callable[[], bool]) -> None:
        """Watch jobs end, for at most so long."""
        self.soon, deadline = True, time.monotonic() + seconds
        while goes_on() and time.monotonic() < deadline:
            self.wait(SOON)


def _executor(launcher: Slurm, folder: Path, name: str) -> Any:
    """submitit's executor for one job. A job is one process, so there is no need of srun."""
    import submitit

    options = {
        "job_name": name,
        "partition": launcher.partition,
        "account": launcher.account,
        "qos": launcher.qos,
        "constraint": launcher.constraint,
        "time": launcher.timeout_min,
        "cpus_per_task": launcher.cpus_per_task,
        "mem": None if launcher.mem_gb is None else f"{round(1024 * launcher.mem_gb)}M",
        "gpus_per_node": launcher.gpus_per_node or None,
        "setup": [SURVIVE, *(launcher.setup or [])],
    }
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(
        **{key: value for key, value in options.items() if value is not None},
        additional_parameters={"no-requeue": True},
        stderr_to_stdout=True,
        use_srun=False,
    )
    return executor


@contextmanager
def _outside_of_a_job() -> Iterator[None]:
    """A sweep that is itself in a job must not hand down what that job was given (SLURM_CPUS_PER_TASK, ...)."""
    from submitit.helpers import clean_env

    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    where = {name: value for name, value in os.environ.items() if name == "SLURM_CONF"}
    with clean_env():
        os.environ.update(where)
        yield


def _why(job: Any, state: str, status: str = "0", node: str = "") -> str | None:
    """Why a job did not end well, if so."""
    told = ENDS[state]
    if told is None or (state == "" and job.paths.result_pickle.exists()):
        return None
    why = told.format(how=_how(int(status)), node=node, log=f"slurm/{job.paths.stdout.name}")
    return Lost(why) if state in LOST else why


def _how(status: int) -> str:
    """How a process ended, from its wait status; a shell adds 128 to the signal that killed what it ran."""
    code = os.waitstatus_to_exitcode(status)
    number = -code if code < 0 else code - 128
    killed = number in set(signal.Signals)
    return f"was killed by {signal.Signals(number).name}" if killed else f"ended with exit code {code}"


def _told(*command: str) -> str:
    """What a command of Slurm's prints. Raises EnvironmentFault if it fails.

    `scancel --quiet` fails without a word where a job has ended meanwhile, or has not begun and can hear no signal.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
    if done.returncode and (done.stderr.strip() or "--quiet" not in command):
        raise EnvironmentFault(
            f"{command[0]}: {_last_line(done.stderr)}; is Slurm up, and is this one of its machines?"
        )
    return done.stdout


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
