"""Hydra's own launchers and their plugins (basic, joblib, ...) as an engine: all waiting stacks in one call.

Such a launcher can neither be asked what has ended nor told to end it, so nothing is known until the call is over.
"""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import open_dict

from regrun import config
from regrun.engines import work
from regrun.engines.tasks import Task
from regrun.launchers import Plugin
from regrun.paths import conf_dir


class PluginEngine:
    """Gives every stack to the launcher as a job whose output folder is the stack's."""

    slots = 1_000_000  # the launcher has its own limit

    def __init__(self, launcher: Plugin, root: Path) -> None:
        self.launcher, self.root = launcher, root
        self.waiting: list[Task] = []

    def start(self, task: Task) -> None:
        self.waiting.append(task)

    def wait(self, seconds: float) -> list[tuple[Task, str | None]]:
        tasks, self.waiting = self.waiting, []
        why = self._launch(tasks) if tasks else None
        return [(task, why) for task in tasks]

    def _launch(self, tasks: list[Task]) -> str | None:
        """Why the launcher itself gave up, or None."""
        config.register()
        choice = [f"hydra/launcher={self.launcher.kind}", *self.launcher.overrides]
        with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="regrun"):
            cfg = compose(config.CONFIG_NAME, choice, return_hydra_config=True)
            with open_dict(cfg.hydra):
                cfg.hydra.sweep.dir = str(self.root.absolute())
                cfg.hydra.overrides.hydra = [
                    *choice,
                    f"hydra.sweep.dir='{self.root.absolute()}'",
                    "hydra.output_subdir=null",
                ]
                cfg.hydra.job.config_name = config.CONFIG_NAME
            context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks(cfg))
            launcher = Plugins.instance().instantiate_launcher(context, train_job, cfg)
            jobs = [[f"hydra.sweep.subdir={task.folder.relative_to(self.root)}"] for task in tasks]
            try:
                launcher.launch(jobs, initial_job_idx=0)
            except Exception as error:  # a dead worker ends the launcher; what it left undone is tried again
                return f"{type(error).__name__} in hydra/launcher={self.launcher.kind}"
        return None

    def kill(self, task: Task) -> None:
        raise NotImplementedError("a launcher of Hydra's cannot end a job")

    def close(self) -> None:
        self.waiting.clear()


def train_job(_: Any) -> None:
    """The job: the stack in its output folder."""
    work.train_folder(HydraConfig.get().runtime.output_dir)
