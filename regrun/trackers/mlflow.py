"""MLflow: a run for each run, in the folder's `mlflow.db` or wherever MLFLOW_TRACKING_URI says.

A folder's runs are known by the tags regrun.folder and regrun.run_id. Figures are float64; MLflow's database keeps a
NaN, and the largest number in place of an infinity.
"""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from regrun.trackers import Tracked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ENVIRONMENT = {  # unless it is set
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # a server that nobody answers at is given up after seconds, not minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
METRICS, PARAMS = 1000, 100  # in one call, at most
STATUS = {"ok": "FINISHED", "diverged": "FINISHED", "interrupted": "KILLED"}


def done(folder: Path) -> set[str]:
    client, experiment = _open(folder)
    found = _runs(client, experiment, _tagged("folder", _name(folder)))
    return {run.data.tags["regrun.run_id"] for run in found if run.info.status == "FINISHED"}


def log(folder: Path, runs: Iterable[Tracked]) -> str:
    client, experiment = _open(folder)
    for run in runs:
        own = f"{_tagged('folder', _name(folder))} and {_tagged('run_id', run.run_id)}"
        for old in _runs(client, experiment, own):
            client.delete_run(old.info.run_id)
        tags = {"regrun.folder": _name(folder), "regrun.run_id": run.run_id} | run.words
        made = client.create_run(experiment, run_name=run.run_id, tags=tags).info.run_id
        _fill(client, made, run)
        client.set_terminated(made, STATUS.get(run.status, "FAILED"))
    return f"mlflow ui --backend-store-uri {_uri(folder)}"


def _fill(client: "MlflowClient", made: str, run: Tracked) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    metrics = [Metric(k, v, now, epoch) for epoch, figures in run.epochs() for k, v in figures.items()]
    metrics += [Metric(k, v, now, 0) for k, v in run.figures.items()]
    params = [Param(k, v) for k, v in run.settings.items()]
    for i in range(0, len(params), PARAMS):
        client.log_batch(made, params=params[i : i + PARAMS])
    for i in range(0, len(metrics), METRICS):
        client.log_batch(made, metrics=metrics[i : i + METRICS])


def _open(folder: Path) -> tuple["MlflowClient", str]:
    """The store, and the id of the experiment MLFLOW_EXPERIMENT_NAME, or regrun, in it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    client, name = MlflowClient(_uri(folder)), os.environ.get("MLFLOW_EXPERIMENT_NAME", "regrun")
    found = client.get_experiment_by_name(name)
    return client, found.experiment_id if found is not None else client.create_experiment(name)


def _uri(folder: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute() / 'mlflow.db'}"


def _name(folder: Path) -> str:
    return str(folder.absolute()).replace("'", "_")  # which a filter cannot hold


def _tagged(tag: str, value: str) -> str:
    return f"tags.`regrun.{tag}` = '{value}'"


def _runs(client: "MlflowClient", experiment: str, where: str) -> Iterator["Run"]:
    """The runs of a filter, page by page."""
    page, token = client.search_runs([experiment], where), None
    yield from page
    while token := page.token:
        page = client.search_runs([experiment], where, page_token=token)
        yield from page
