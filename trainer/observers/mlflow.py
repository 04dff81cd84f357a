"""Events as metrics, parameters and tags of an MLflow run.

Where to: what MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say; `mlruns/` in the run directory otherwise, which
needs neither a server nor a database. `mlflow_run.json` beside the log remembers which run it is: a resumed session
goes on in that one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Both before it is imported. Nothing is sent to anybody unasked; and files are what works without a database.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from ckpt_tui.events.schema import Best, CheckpointSaved, Event, RunEnd, RunStart
from trainer.checkpoint.publish import publish
from trainer.observers.scalars import scalars_of

RUN_NAME = "mlflow_run.json"
FOLDER = "mlruns"
EXPERIMENT = "trainer"
_MAX_METRICS, _MAX_PARAMETERS = 1000, 100  # of one request, as MLflow has it
_MAX_VALUE_LENGTH = 5000
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "diverged": "FAILED"}  # others: KILLED
_NOT_IN_NAMES = re.compile(r"[^\w\-. /]")


class MLflow:
    def __init__(self, directory: str) -> None:
        self._directory = directory
        # Of the local one only the folder's name: a run directory that was moved keeps its run.
        self._place = os.environ.get("MLFLOW_TRACKING_URI") or FOLDER
        is_local = self._place == FOLDER
        self._client = MlflowClient(Path(directory, FOLDER).absolute().as_uri() if is_local else self._place)
        self._run_id = ""

    def observe(self, events: Sequence[Event]) -> None:
        metrics, tags = [], {}
        for event in events:
            if isinstance(event, RunStart) or not self._run_id:
                self._begin(event)
            at_ms = int(event.ts * 1000)
            metrics += [Metric(_name(key), value, at_ms, event.step) for key, value in scalars_of(event).items()]
            match event:
                case CheckpointSaved():
                    tags["checkpoint"] = f"{event.path}, step {event.step}"
                case Best():
                    tags["best"] = f"{event.metric} {event.value}, step {event.step}"
        for at in range(0, len(metrics), _MAX_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[at : at + _MAX_METRICS], synchronous=True)
        if tags:
            self._client.log_batch(self._run_id, tags=_tags(tags), synchronous=True)
        for event in events:
            if isinstance(event, RunEnd):
                self._client.set_terminated(self._run_id, _STATUS.get(event.status, "KILLED"))

    def close(self) -> None:
        """Nothing is open: every call is a request of its own."""

    def _begin(self, event: Event) -> None:
        """The run of this directory, or a new one; and what this session says of itself."""
        known = self._known_parameters()
        name = event.run_name if isinstance(event, RunStart) else ""
        if known is None:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
            found = self._client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found is not None else self._client.create_experiment(experiment)
            name = name or os.path.basename(os.path.abspath(self._directory))
            self._run_id = self._client.create_run(experiment_id, run_name=name).info.run_id
            content = {"run_id": self._run_id, "tracking_uri": self._place}
            publish(self._directory, [RUN_NAME], json.dumps(content).encode() + b"\n")
            known = {}
        if not isinstance(event, RunStart):
            return
        values = {_name(key): str(value)[:_MAX_VALUE_LENGTH] for key, value in event.config.items()}
        new = [Param(key, value) for key, value in values.items() if key not in known]
        for at in range(0, len(new), _MAX_PARAMETERS):
            self._client.log_batch(self._run_id, params=new[at : at + _MAX_PARAMETERS], synchronous=True)
        # A parameter cannot be changed in MLflow; what another session sets differently is a tag.
        tags = {
            f"session_{event.session}.{key}": value
            for key, value in values.items()
            if key in known and known[key] != value
        }
        tags |= {"session": str(event.session), "directory": os.path.abspath(self._directory)}
        self._client.log_batch(self._run_id, tags=_tags(tags), synchronous=True)

    def _known_parameters(self) -> dict[str, str] | None:
        """Of the run that an earlier session of this directory began, which goes on; None when there is none."""
        run_id = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            held: Any = json.loads(Path(self._directory, RUN_NAME).read_bytes())
            run_id = str(held["run_id"]) if held["tracking_uri"] == self._place else ""
        if not run_id:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise  # a server that is away: not a reason to begin a second run
        if run.info.lifecycle_stage != "active":
            return None  # somebody deleted it
        self._client.update_run(run_id, status="RUNNING")
        self._run_id = run_id
        return dict(run.data.params)


def _name(key: str) -> str:
    return _NOT_IN_NAMES.sub("_", key)[:250]


def _tags(values: dict[str, str]) -> list[RunTag]:
    return [RunTag(_name(key), value[:_MAX_VALUE_LENGTH]) for key, value in values.items()]
