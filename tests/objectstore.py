"""A real S3 server (SeaweedFS) on this machine: a private bucket with keys, and one that everybody may read."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

KEY, SECRET = "reader", "open-sesame"
PRIVATE, PUBLIC = "imagery", "public"


def client(endpoint: str) -> boto3.client:
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=SECRET,
        config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip


@contextmanager
def object_store(folder: Path) -> Iterator[str]:
    """Yields the endpoint; the buckets are there and empty."""
    identities = [
        {"name": "owner", "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
         "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
        {"name": "anonymous", "actions": [f"Read:{PUBLIC}", f"List:{PUBLIC}"]},
    ]  # fmt: skip
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    port, *others = _free_ports(4)
    ports = [f"-{part}.port={number}" for part, number in zip(("master", "volume", "filer"), others, strict=True)]
    weed = Path(sys.executable).with_name("weed")
    command = [
        weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3",
        f"-s3.config={folder / 's3.json'}", f"-s3.port={port}", *ports, "-master.volumeSizeLimitMB=64",
        "-s3.port.iceberg=0", "-s3.port.lance=0",  # two servers at once must not want the same port
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            endpoint = f"http://127.0.0.1:{port}"
            for bucket in (PRIVATE, PUBLIC):
                _make(bucket, endpoint, server, folder / "log")
            yield endpoint
        finally:
            server.kill()  # nothing in it is worth a graceful end
            server.wait(30)


def upload(endpoint: str, bucket: str, folder: Path, prefix: str) -> None:
    s3 = client(endpoint)
    for path in folder.rglob("*.*"):
        if path.is_file():
            s3.put_object(Bucket=bucket, Key=f"{prefix}/{path.relative_to(folder).as_posix()}", Body=path.read_bytes())


def _make(bucket: str, endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            client(endpoint).create_bucket(Bucket=bucket)
            client(endpoint).put_object(Bucket=bucket, Key="ready", Body=b"")
            return
        except (BotoCoreError, ClientError):
            time.sleep(0.25)
    raise AssertionError(log.read_text())


def _free_ports(count: int) -> list[int]:
    """Ports in a row that are free, and so are those 10000 above them, where SeaweedFS puts its gRPC."""
    for first in random.sample(range(12000, 22000), 100):
        ports = range(first, first + count)
        try:
            for port in (*ports, *(p + 10000 for p in ports)):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return list(ports)
    raise AssertionError("no free ports")
