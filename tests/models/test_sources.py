"""Where checkpoints come from: folders, hubs, buckets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from reference import pooled

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import CheckpointError
from olmoearth_core.models import load_encoder
from olmoearth_core.models.catalogue import CATALOGUE, cached, show, table
from olmoearth_core.progress import Silent
from olmoearth_core.stages import STAGES


@pytest.mark.parametrize(
    "source", ["/no/such/folder", "v1.1-huge", "hf://only-one-part", "hf://a/b/c", "hf://.a/b", "hf://a--b/..c"]
)
def test_sources_that_are_none_are_refused(source: str) -> None:
    with pytest.raises(CheckpointError, match=source):
        load_encoder(source)


# --- the hub and the bucket -------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A Hugging Face hub on this machine that serves `published` as allenai/OlmoEarth-v1_1-Nano; yields its log."""
    import huggingface_hub.constants as constants

    log: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            log.append(f"{self.command} {self.path}")
            repository, _, rest = self.path.strip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            path = published / name
            known = repository == "allenai/OlmoEarth-v1_1-Nano" and revision in ("main", COMMIT) and path.is_file()
            self.send_response(200 if known else 404)
            if not known:
                kind = "EntryNotFound" if repository.startswith("allenai/") else "RepoNotFound"
                self.send_header("X-Error-Code", kind)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = path.read_bytes()
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{sha256_file(path)}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        yield log
    finally:
        server.shutdown()
        server.server_close()


def test_a_hub_is_asked_once_and_the_commit_is_pinned(hub: list[str], published: Path) -> None:
    expected = pooled(load_encoder(str(published)))
    encoder = load_encoder("hf://allenai/OlmoEarth-v1_1-Nano")
    assert torch.equal(pooled(encoder), expected)
    assert encoder.origin.revision == COMMIT
    assert encoder.origin.card()["sha256"] == sha256_file(published / "weights.pth")
    assert any(line.startswith("GET") and f"/resolve/{COMMIT}/weights.pth" in line for line in hub)
    assert not any("/resolve/main/weights.pth" in line for line in hub)
    hub.clear()
    load_encoder(f"hf://allenai/OlmoEarth-v1_1-Nano@{COMMIT}")
    assert not any(line.startswith("GET") for line in hub)  # a pinned commit lies in the cache


def test_a_name_of_the_catalogue_is_fetched_from_its_hub(hub: list[str]) -> None:
    assert cached(CATALOGUE["v1.1-nano"]) is None
    assert load_encoder("v1.1-nano").name == "v1.1-nano"
    assert show("v1.1-nano")["cached"] == COMMIT
    assert [row["name"] for row in table() if row["cached"]] == ["v1.1-nano"]


@pytest.mark.parametrize("weights", ["v1.1-nano", "hf://allenai/OlmoEarth-v1_1-Nano"])
def test_the_key_of_finetune_holds_what_was_fetched(
    hub: list[str], published: Path, tmp_path: Path, weights: str
) -> None:
    project = toy.write_project(tmp_path / "project", {"model.weights": weights})
    files = STAGES["finetune"].files(project, Silent())
    assert {name: sha256_file(path) for name, path in files.items()} == {
        f"weights/{name}": sha256_file(published / name) for name in ("config.json", "weights.pth")
    }


def test_without_the_hub_it_is_said_what_else_will_do(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"cannot be reached .* a folder that holds the checkpoint, or random"):
        load_encoder("v1.1-nano")


@pytest.mark.parametrize("source", ["hf://allenai/OlmoEarth-v9-Nano", "hf://nobody/nothing@main"])
def test_a_repository_that_is_not_there_is_refused(hub: list[str], source: str) -> None:
    with pytest.raises(CheckpointError, match=source):
        load_encoder(source)


@pytest.fixture
def bucket(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "OLMOEARTH_CACHE": str(tmp_path / "cache"),
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="weights")
    for name in ("config.json", "weights.pth"):
        client.upload_file(str(published / name), "weights", f"olmoearth/nano/{name}")
    try:
        yield client
    finally:
        server.stop()


def test_a_bucket_is_read_once_and_its_etag_is_the_revision(bucket: Any, published: Path) -> None:
    encoder = load_encoder("s3://weights/olmoearth/nano/")
    assert torch.equal(pooled(encoder), pooled(load_encoder(str(published))))
    assert encoder.origin.revision
    bucket.put_object(Bucket="weights", Key="olmoearth/nano/config.json", Body=b"{}")
    with pytest.raises(CheckpointError, match="encoder_config"):  # a changed object is not taken from the cache
        load_encoder("s3://weights/olmoearth/nano")
    for wrong in ("s3://weights/nothing", "s3://no-such-bucket/x"):
        with pytest.raises(CheckpointError, match=wrong):
            load_encoder(wrong)


def test_the_key_of_finetune_holds_what_a_bucket_holds_and_not_its_address(bucket: Any, tmp_path: Path) -> None:
    finetune = STAGES["finetune"]

    def inputs() -> dict[str, str]:
        project = toy.write_project(tmp_path / "project", {"model.weights": "s3://weights/olmoearth/nano"})
        return {name: sha256_file(path) for name, path in finetune.files(project, Silent()).items()}

    before = inputs()
    assert set(before) == {"weights/config.json", "weights/weights.pth"}
    assert inputs() == before
    bucket.put_object(Bucket="weights", Key="olmoearth/nano/weights.pth", Body=b"others")
    after = inputs()
    assert after["weights/config.json"] == before["weights/config.json"]
    assert after["weights/weights.pth"] != before["weights/weights.pth"]
