"""Where checkpoints are fetched from: a folder, a hub, a bucket. All end as two local files.

A checkpoint is a description and its weights: as published, `config.json` and `weights.pth` or `encoder.pt`, by
family; or `encoder.json` + `encoder.safetensors` as `save_encoder` writes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from olmoearth_core.errors import CheckpointError
from olmoearth_core.models.catalogue import CATALOGUE, FAMILIES, snapshot
from olmoearth_core.models.family import Entry
from olmoearth_core.store import whole_file

PUBLISHED = "config.json"
OWN = ("encoder.json", "encoder.safetensors")


@dataclass(frozen=True)
class Files:
    """A checkpoint's two files on this machine."""

    description: Path
    weights: Path
    revision: str | None = None
    """What the source calls exactly this state: a commit of a hub, an ETag of a bucket; None for a folder."""

    @property
    def published(self) -> bool:
        """Whether the files are of the published format."""
        return self.description.name == PUBLISHED


def locate(source: str) -> Files:
    """Fetch the checkpoint that `source` names, or find it in the cache.

    Raises:
        CheckpointError: there is no such source, or it has no checkpoint, or cannot be reached.
    """
    if source in CATALOGUE:
        return _hub(CATALOGUE[source].hub, source, CATALOGUE[source])
    if source.startswith("hf://"):
        return _hub(source.removeprefix("hf://"), source)
    if source.startswith("s3://"):
        return _bucket(source)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise CheckpointError(
            f"'{source}' is no folder, and no encoder of the catalogue ({', '.join(CATALOGUE)}); give a folder, a "
            "catalogue name, hf://organisation/name@revision or s3://bucket/folder."
        )
    return _first_pair(source, lambda name: path if (path := folder / name).is_file() else None)


def _first_pair(source: str, find: Callable[[str], Path | None], revision: str | None = None) -> Files:
    for description, weights in ((PUBLISHED, [family.weights_file for family in FAMILIES]), (OWN[0], [OWN[1]])):
        if (found := find(description)) is None:
            continue
        for name in weights:
            if (data := find(name)) is not None:
                return Files(found, data, revision)
        raise CheckpointError(f"{source}: there is {description}, but no {' or '.join(weights)} beside it.")
    raise CheckpointError(f"{source}: there is neither {PUBLISHED} nor {OWN[0]}, so no checkpoint.")


def _hub(repository: str, source: str, entry: Entry | None = None) -> Files:
    """Download from Hugging Face; the revision asked for is resolved to a commit, and both files are of that commit."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    name, _, asked = repository.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointError(f"'{source}' is no hub address; expected is hf://organisation/name or ...name@revision.")
    pinned = asked or None

    def find(file: str) -> Path | None:
        nonlocal pinned
        file = entry.file(file) if entry else file
        try:
            path = Path(huggingface_hub.hf_hub_download(name, file, revision=pinned))
        except LocalEntryNotFoundError as error:
            raise CheckpointError(
                f"{source}: the hub cannot be reached and {file} is not in the cache "
                f"({huggingface_hub.constants.HF_HUB_CACHE}). Without the hub, give a folder that holds the "
                "checkpoint, or random weights."
            ) from error
        except EntryNotFoundError:
            return None
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise CheckpointError(f"{source}: {file} cannot be fetched: {str(error).splitlines()[0]}") from error
        pinned = snapshot(path, file)
        return path

    files = _first_pair(source, find)
    return Files(files.description, files.weights, pinned)


def _bucket(source: str) -> Files:
    """Download from S3 (credentials and endpoint as boto3 finds them) into the cache, one folder per ETag."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    tags: list[str] = []

    def find(file: str) -> Path | None:
        key = f"{prefix.rstrip('/')}/{file}".lstrip("/")
        try:
            tag: str = client.head_object(Bucket=bucket, Key=key)["ETag"].strip('"')
            path: Path = cache_folder() / "s3" / bucket / prefix.strip("/") / tag / file
            if not path.is_file():
                with whole_file(path) as partial:
                    client.download_file(bucket, key, str(partial))
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("404", "NoSuchKey", "NotFound"):
                return None
            raise CheckpointError(f"{source}: {key} cannot be fetched: {error}") from error
        except BotoCoreError as error:
            raise CheckpointError(f"{source}: {key} cannot be fetched: {error}") from error
        tags.append(tag)
        return path

    files = _first_pair(source, find)
    return Files(files.description, files.weights, tags[-1])


def cache_folder() -> Path:
    """Where fetched checkpoints are kept: $OLMOEARTH_CACHE, or ~/.cache/olmoearth."""
    return Path(os.environ.get("OLMOEARTH_CACHE") or Path.home() / ".cache" / "olmoearth")
