"""A search as MLflow shows it: a run, and below it a run for every trial.

A search that was killed and goes on finds its runs again, by its key, and logs what they lack.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from olmoearth_core.project import Project
from registry.mlflow.client import open_client
from registry.mlflow.run import DATASET_TAG, experiment_of, log_batch, log_params, numbers
from registry.workspace import Workspace

if TYPE_CHECKING:
    from olmoearth_core.training.trials import Standing

SEARCH_TAG, TRIAL_TAG, EPOCHS_TAG, OUTCOME_TAG = (
    "olmoearth.search",
    "olmoearth.trial",
    "olmoearth.epochs",
    "olmoearth.outcome",
)
PARENT_TAG = "mlflow.parentRunId"
PARENT = "all"
"""In the place of a trial's number: the run above them."""


@contextmanager
def open_search(
    workspace: Workspace, project: Project, key: str, dataset_digest: str, trials: int
) -> Iterator[SearchLog]:
    """The MLflow run of a search, begun or found again.

    Args:
        workspace: names MLflow.
        project: its name is the experiment's.
        key: of the search.
        dataset_digest: of the training set.
        trials: how many there are.

    Raises:
        ModelError: MLflow cannot be reached or refuses.
    """
    with open_client(workspace) as client:
        log = SearchLog(client, experiment_of(client, workspace, project.config.name), key)
        log.begin({DATASET_TAG: dataset_digest}, {"trials": trials})
        try:
            yield log
        except BaseException:
            client.set_terminated(log.run, "FAILED")
            raise
        client.set_terminated(log.run)


class SearchLog:
    """Writes a search to MLflow."""

    def __init__(self, client: Any, experiment: str, key: str) -> None:
        self._client, self._experiment, self._key = client, experiment, key
        self.run = ""
        """MLflow's id of the run."""

    def begin(self, tags: dict[str, str], params: dict[str, Any]) -> None:
        """Make the run, or find it."""
        found = self._find(TRIAL_TAG, PARENT)
        if found is None:
            tags = {SEARCH_TAG: self._key, TRIAL_TAG: PARENT, **tags}
            self.run = self._create(f"search-{self._key[:8]}", tags)
            log_params(self._client, self.run, params)
        else:
            self.run = found.info.run_id
            self._client.update_run(self.run, status="RUNNING")

    def log(self, standing: Standing) -> None:
        """Write how far a trial got; what is written already is not written again.

        Raises:
            ModelError: MLflow refuses.
        """
        trial = standing.trial
        found = self._find(TRIAL_TAG, str(trial.number))
        if found is None:
            tags = {SEARCH_TAG: self._key, TRIAL_TAG: str(trial.number), PARENT_TAG: self.run, EPOCHS_TAG: "0"}
            run, done, outcome = self._create(f"trial-{trial.number:03d}", tags), 0, ""
            log_params(self._client, run, trial.to_json())
        else:
            run, tags = found.info.run_id, found.data.tags
            done, outcome = int(tags[EPOCHS_TAG]), tags.get(OUTCOME_TAG, "")
        for entry in standing.history[done:]:
            values = {f"epoch/{name}": value for name, value in numbers(entry).items() if name != "epoch"}
            log_batch(self._client, run, values, step=entry["epoch"])
            self._client.set_tag(run, EPOCHS_TAG, str(entry["epoch"]))
        if standing.score is not None and (len(standing.history) > done or outcome != standing.outcome):
            log_batch(self._client, run, {"score": standing.score}, step=standing.epochs)
        if standing.outcome and outcome != standing.outcome:
            if standing.why:
                self._client.set_tag(run, "olmoearth.why", standing.why[:5000])
            self._client.set_terminated(run, "FAILED" if standing.outcome == "failed" else "FINISHED")
            self._client.set_tag(run, OUTCOME_TAG, standing.outcome)

    def end(self, outcome: dict[str, Any]) -> None:
        """Write what won.

        Raises:
            ModelError: MLflow refuses.
        """
        winner = outcome["winner"]
        for name, value in winner.items():
            self._client.set_tag(self.run, f"olmoearth.winner.{name}", str(value))
        if winner["score"] is not None:
            log_batch(self._client, self.run, {"score": winner["score"]})

    def _create(self, name: str, tags: dict[str, str]) -> str:
        return str(self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)

    def _find(self, tag: str, value: str) -> Any | None:
        asked = f"tags.`{SEARCH_TAG}` = '{self._key}' and tags.`{tag}` = '{value}'"
        found = self._client.search_runs([self._experiment], asked, max_results=1)
        return found[0] if found else None
