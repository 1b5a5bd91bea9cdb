"""A challenger before the gates: compared with the champion, promoted or refused, and all of it on record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.champion import folder_of
from flows.door import finished_stage
from flows.errors import GateError
from olmoearth_core.errors import TrainingError
from olmoearth_core.manifest import Manifest
from olmoearth_core.progress import Progress
from olmoearth_core.project import GatesConfig, Project
from olmoearth_core.store import write_json, write_text

if TYPE_CHECKING:
    from olmoearth_core.training.compare_models import Comparison
    from olmoearth_core.training.gates import Gate
    from registry.mlflow.models import ModelVersion
    from registry.registry import Registry

FOLDER = "evaluations"
"""In the project: a folder for each comparison, with report.md and comparison.json."""


@dataclass(frozen=True)
class Evaluated:
    """What came of a comparison.

    Attributes:
        champion, challenger: the versions.
        comparison: None where they cannot be compared.
        gates: what became of each.
        passed: whether the challenger may become the champion.
        report: the page, relative to the project.
    """

    champion: ModelVersion
    challenger: ModelVersion
    comparison: Comparison | None
    gates: list[Gate]
    passed: bool
    report: str

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "champion": self.champion.version,
            "challenger": self.challenger.version,
            "passed": self.passed,
            "gates": [gate.to_json() for gate in self.gates],
            "report": self.report,
            "comparison": None if self.comparison is None else self.comparison.to_json(),
        }

    def gates_on_record(self) -> dict[str, Any]:
        """Gate -> what was found, for the registry."""
        return {gate.name: {k: v for k, v in gate.to_json().items() if k != "name"} for gate in self.gates} | {
            "report": self.report
        }


@dataclass(frozen=True)
class Decided:
    """What became of a challenger.

    Attributes:
        promoted: whether it is the champion now.
        sentence: for a person.
        evaluated: None where there was no champion to compare it with.
    """

    promoted: bool
    sentence: str
    evaluated: Evaluated | None


def evaluate(
    project: Project, registry: Registry, champion: ModelVersion, challenger: ModelVersion, progress: Progress
) -> Evaluated:
    """Compare two versions on the test windows of the project's training set, leave a report, take it down.

    Raises:
        ProjectError: the training set has to be made first.
        CoreError: a model or training set that is damaged.
        RegistryError: MLflow or the registry refuses.
    """
    from olmoearth_core.training.compare_models import compare_models
    from olmoearth_core.training.compare_models_report import comparison_markdown
    from olmoearth_core.training.gates import Gate, passed, run_gates
    from registry.mlflow.evaluations import record_comparison, windows_of

    dataset = finished_stage(project, "preprocess", progress)
    digest, workspace = dataset.manifest.outputs_digest, registry.workspace
    same = champion.dataset_digest == digest
    before = None if same else windows_of(registry, project, champion.dataset_digest)
    folders = [folder_of(project, model, workspace) for model in (champion, challenger)]
    title = f"{project.config.name}: version {challenger.version} against the champion, version {champion.version}"
    place = f"{FOLDER}/{challenger.version}-against-{champion.version}-{digest[:8]}"
    try:
        found = compare_models(project, dataset.folder, *folders, before=before, progress=progress)
    except TrainingError as error:
        gates = [Gate("comparable", False, str(error), {})]
        write_text(project.root / place / "report.md", f"# {title}\n\nRefused: {error}\n")
        write_json(project.root / place / "comparison.json", {"gates": [gates[0].to_json()]})
        return Evaluated(champion, challenger, None, gates, False, f"{place}/report.md")
    found = replace(found, notes=(*found.notes, *_doubts(registry, project, champion, dataset.manifest, before, same)))
    gates = run_gates(found, _gates_of(project))
    fine = passed(gates)
    verdict = "It passes all gates." if fine else "It is refused: the champion stays."
    write_text(project.root / place / "report.md", comparison_markdown(title, verdict, found, gates))
    kept = found.to_json() | {"gates": [gate.to_json() for gate in gates], "passed": fine, "dataset": digest}
    write_json(project.root / place / "comparison.json", kept)
    models = {"champion": champion, "challenger": challenger}
    record_comparison(registry, models, digest, project.config.task.name, found.to_json())
    return Evaluated(champion, challenger, found, gates, fine, f"{place}/report.md")


def decide(
    project: Project,
    registry: Registry,
    challenger: ModelVersion,
    progress: Progress,
    *,
    why: str,
    force: bool = False,
    by: str | None = None,
) -> Decided:
    """Let a model version through the gates, or not: it becomes the champion, or bears the alias `challenger`.

    Args:
        project: whose.
        registry: takes everything down.
        challenger: the version.
        progress: who listens.
        why: the reason, for the record.
        force: promote it without asking the gates; on record as such.
        by: who or what decides; the user of this process when not given.

    Raises:
        CoreError, RegistryError: as `evaluate`, and where MLflow or the registry refuses.
    """
    from registry.mlflow.promotions import challenge, champion_of, promote, settle

    name = project.config.name
    for left in settle(registry, name):
        progress.note(f"{name}: {left.sentence}.")
    champion = champion_of(registry, name)
    if champion is not None and champion.version == challenger.version:
        return Decided(False, f"{name}: version {challenger.version} is the champion already.", None)
    if champion is None or force:
        gates = {"forced": {"passed": True, "sentence": "promoted without asking the gates"}} if force else {}
        promote(registry, challenger, why=why, gates=gates, by=by)
        return Decided(True, f"{name}: version {challenger.version} is the champion now, without gates.", None)
    challenge(registry, challenger, name)
    found = evaluate(project, registry, champion, challenger, progress)
    if not found.passed:
        failed = "; ".join(f"{gate.name}: {gate.sentence}" for gate in found.gates if not gate.passed)
        told = f"{name}: version {challenger.version} is refused, version {champion.version} stays champion. {failed}"
        return Decided(False, told, found)
    promote(registry, challenger, why=why, gates=found.gates_on_record(), by=by)
    challenge(registry, None, name)
    told = f"{name}: version {challenger.version} is the champion now; it was version {champion.version}."
    return Decided(True, told, found)


def refuse(decided: Decided, root: Path) -> None:
    """Turn a refusal into the failure of a command.

    Raises:
        GateError: with the gates that did not let it pass, and where the report lies.
    """
    if not decided.promoted:
        report = (
            f" Report: {root / decided.evaluated.report}. --force promotes all the same." if decided.evaluated else ""
        )
        raise GateError(f"{decided.sentence}{report}")


def _gates_of(project: Project) -> GatesConfig:
    retraining = project.config.retraining
    return retraining.gates if retraining is not None else GatesConfig()


def _doubts(
    registry: Registry, project: Project, champion: ModelVersion, now: Manifest, before: Path | None, same: bool
) -> list[str]:
    """What a reader of the comparison has to know about the training sets."""
    from registry.mlflow.evaluations import inputs_of

    doubts = []
    if not same and before is None:
        doubts.append(
            "The champion's training set is in no store of this machine any more, so the newest labels cannot be told "
            "from the frozen test: all test windows count as one."
        )
    dealt = {name for name in now.inputs if name.startswith("splits/")}
    former = inputs_of(registry, project, champion.dataset_digest)
    if former and not any(dealt <= set(inputs) for inputs in former):
        doubts.append(
            "Blocks of ground were dealt out anew since the champion was trained (dataset.split, grid or window size): "
            "it may have learned from test windows of now, so its scores may be too high."
        )
    return doubts
