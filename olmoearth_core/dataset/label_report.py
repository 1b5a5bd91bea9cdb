"""The report's section about labels: what labels.json says, for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from olmoearth_core.dataset.html import table
from olmoearth_core.dataset.label_quality import look_alike_sentence, shift_sentence
from olmoearth_core.labels.agreement import LOOK_ALIKES


def label_section(quality: Mapping[str, Any]) -> str:
    """HTML: remarks, one row a label file, and what splits have in common."""
    remarks = "".join(f'<p class="warning">{escape(remark)}</p>' for remark in quality["remarks"])
    head = ["File", "Labels", "Twice", "Too small", "Told apart", "Compared with the imagery"]
    files = table(head, _files(quality), frozenset({1, 2, 3, 4}))
    return f'{remarks}{files}<p class="soft">{" ".join(map(escape, _sentences(quality)))}</p>'


def _files(quality: Mapping[str, Any]) -> Iterator[list[str]]:
    for source, facts in quality["files"].items():
        imagery = quality["imagery"].get(source, {})
        amount = f"{facts['labels']:,}" if "labels" in facts else f"{facts['pixels']:,} pixels"
        told = imagery.get("separability")
        yield [
            escape(source),
            amount,
            *(f"{facts[key]['count']:,}" if key in facts else "" for key in ("doubles", "specks")),
            "" if told is None else f"{told:.2f}",
            "<br>".join(_compared(imagery)),
        ]


def _compared(imagery: Mapping[str, Any]) -> Iterator[str]:
    if not imagery:
        yield '<span class="soft">not compared: there are too many files</span>'
        return
    if imagery.get("separability") is None:
        yield '<span class="soft">too few labelled pixels to say</span>'
        return
    shifted = shift_sentence(imagery)
    if shifted:
        before, after = imagery["separability"], imagery["shifted_separability"]
        yield f'<span class="warning">{shifted}: told apart {after:.2f}, not {before:.2f}</span>'
    pairs = [pair for pair in imagery["look_alikes"] if pair["share"] >= LOOK_ALIKES]
    for pair in pairs[:5]:
        labelled, like = escape(pair["labelled"]), escape(pair["like"])
        if pair["suspicious"]:
            where = escape(", ".join(pair["windows"]))
            yield f'<span class="warning">{escape(look_alike_sentence(pair))}</span>'
            yield f'<span class="soft">most of them in {where}</span>'
        elif not pair["side_by_side"]:
            yield f"{labelled} has pixels that look like {like}; no window has labels of both to compare"
        else:
            least = min(pair["recognised"], pair["recognised_rest"])
            yield f"{labelled} and {like} look alike ({least:.0%} of pixels can be told)"
    if not pairs and not shifted:
        yield '<span class="good">agrees</span>'


def _sentences(quality: Mapping[str, Any]) -> Iterator[str]:
    yield "Told apart: share of the variance that lies between classes, from 0 to 1."
    crowding, extent, leakage = quality["crowding"], quality["extent"], quality["leakage"]
    yield (
        f"The labels lie in {crowding['blocks']} blocks of {crowding['block_metres']:g} m; the densest tenth of them "
        f"has {crowding['densest_tenth']:.0%} of the labelled pixels."
    )
    if extent:
        near = f"half lie within {extent['median_metres']:,.0f} m of it"
        yield f"Windows cover {extent['covered']:.1%} of the area to map; {near}."
    for pair, metres in leakage["least_distance"].items():
        if metres is not None:
            yield f"Nearest windows of {pair}: {metres:,.0f} m." if metres >= 0 else f"Windows of {pair} overlap."
    yield f"{leakage['shared_labels']:,} labels reach into windows of several splits."
