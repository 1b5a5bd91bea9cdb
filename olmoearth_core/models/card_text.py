"""What a model card says of how good the model is, from what metrics.json holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from olmoearth_core.models.score_text import NAMES, OVERALL, PARTS, difference_text, named, shown, with_interval


def score_lines(scores: Mapping[str, Any]) -> list[str]:
    """Markdown: how the epoch was chosen, then each task's scores on validation and test.

    Args:
        scores: as in metrics.json (`training.judge`); empty where the model is not judged yet.
    """
    if not scores:
        return ["The model is not judged yet."]
    precision = scores.get("precision")
    lines = [
        str(scores.get("chosen_by", "")),
        *(["", f"Judged as saved and loaded for mapping, in {precision}."] if precision else []),
        *_task(scores, ""),
    ]
    for name, auxiliary in scores.get("auxiliary", {}).items():
        lines += _task(auxiliary, f"{name}, ")
    return lines


def _task(scores: Mapping[str, Any], heading: str) -> Iterator[str]:
    kind = scores.get("kind", "segmentation")
    for split in ("validation", "test"):
        title = heading + split
        yield from ("", f"### {title[:1].upper() + title[1:]}", "")
        found = scores[split]
        if not found["pixels"]:
            yield found.get("note") or f"The {split} split has nothing labelled: there are no {split} scores."
            continue
        yield from _split(found, kind)
        if kind != "regression" and "ece" in found:
            yield from ("", _calibration(found, scores.get("calibration") or {}, split))
        if split == "test" and scores.get("sets"):
            yield from ("", _sets(scores["sets"]))
        for note in (found.get("note"), found.get("interval_note")):
            if note:
                yield from ("", note)


def _split(scores: Mapping[str, Any], kind: str) -> Iterator[str]:
    """Overall scores, those of the baseline and the difference; then the parts."""
    keys = [key for key in OVERALL[kind] if key in scores]
    unit = scores.get("unit", "")
    baseline = scores.get("baseline")
    if baseline:
        yield from (f"**{baseline['sentence']}**", "")
        yield f"| score | model | {baseline['name'].removeprefix('a ')} | difference |"
        yield "| --- | --- | --- | --- |"
        for key in keys:
            cells = [with_interval(scores, key), shown(key, baseline["scores"][key])]
            yield f"| {named(key, unit)} | {' | '.join(cells)} | {difference_text(baseline['difference'], key)} |"
    else:
        yield ", ".join(f"{named(key, unit)} {with_interval(scores, key)}" for key in keys)
    section, parts = PARTS[kind]
    compared = parts[-1] if kind == "regression" else parts[0]
    heads = [key if key in ("precision", "recall") else named(key, unit) for key in parts]
    counted = "windows" if kind == "classification" else "pixels"
    heads += [counted, *([f"{NAMES[compared]}, model less {baseline['name'].removeprefix('a ')}"] if baseline else [])]
    yield from ("", f"| {'class' if section == 'classes' else 'range'} | {' | '.join(heads)} |")
    yield f"| --- |{' --- |' * len(heads)}"
    for name, values in scores[section].items():
        cells = [*(with_interval(scores, section, name, key) for key in parts), str(values["pixels"])]
        if baseline:
            cells.append(difference_text(baseline["difference"], section, name, compared))
        escaped = name.replace("|", "\\|")
        yield f"| {escaped} | {' | '.join(cells)} |"
    if "blocks" in scores:
        yield from ("", f"In brackets: 95 % intervals over {scores['blocks']} blocks of ground. Report: report.html.")


def _sets(sets: Mapping[str, Any]) -> str:
    """How often prediction sets held the truth on ground that they were not learned from."""
    told = ", ".join(
        f"{asked:.0%} in {held:.1%}" for asked, held in zip(sets["coverages"], sets["test"], strict=True) if held
    )
    return f"Prediction sets (map.conformal), share that should hold the truth, and how many did: {told}."


def _calibration(scores: Mapping[str, Any], fitted: Mapping[str, Any], split: str) -> str:
    """How far probabilities can be believed, in a sentence or two."""
    before = scores.get("uncalibrated")
    if before:
        return (
            f"Calibration: ECE {shown('ece', scores['ece'])}, and {shown('ece', before['ece'])} before scores are "
            f"divided by the temperature {fitted['temperature']:g} that validation asked for."
        )
    note = (
        fitted.get("note", "") if split == "test" else "No temperature is applied here: it is fitted on these windows."
    )
    return f"Calibration: ECE {shown('ece', scores['ece'])}. {note}".strip()
