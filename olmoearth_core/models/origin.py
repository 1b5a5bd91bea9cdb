"""Where weights come from, under which licence, and what that forbids: it travels with everything made from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from olmoearth_core.digest import sha256_file

OLMOEARTH_LICENCE = "OlmoEarth Artifact License"
OLMOEARTH_RESTRICTIONS = (
    "No military use.",
    "No surveillance.",
    "No extractive industries.",
    "Redistribution, also of fine-tuned models, only together with the OlmoEarth Artifact License and these terms.",
)


@dataclass(frozen=True)
class Origin:
    """The origin of an encoder's weights."""

    source: str
    """As given: a folder, hf://..., s3://..., or "random"."""
    revision: str | None = None
    """Commit on the hub, resolved and pinned when the files were fetched."""
    sha256: str | None = None
    """Of the weights file; for random weights None (name and seed say all)."""
    licence: str = "none (random weights)"
    restrictions: tuple[str, ...] = ()
    seed: int | None = None
    """Of random weights."""
    file: Path | None = field(default=None, compare=False)
    """The local weights file, to compute sha256 from when it is asked for."""

    def signed(self) -> Origin:
        """The same with sha256 filled in (reads the weights file once, about a second per GB)."""
        if self.sha256 is not None or self.file is None:
            return self
        return replace(self, sha256=sha256_file(self.file))

    def card(self) -> dict[str, Any]:
        """JSON values for a model card: source, revision, sha256, licence, restrictions, seed."""
        values = asdict(self.signed())
        del values["file"]
        values["restrictions"] = list(self.restrictions)
        return values
