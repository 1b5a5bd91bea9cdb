"""What servers call the version of a file's content (its ETag), asked for without reading the file."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlsplit

from olmoearth_core.errors import ImageryError, TransientError
from olmoearth_core.imagery.access import Access
from olmoearth_core.imagery.remote import Fetcher

SECONDS = 30.0
"""After so long no more files are asked about: what is known by then is a good deal, and the map waits."""
TIMEOUT = 10.0


def etags(addresses: Iterable[str], access: Access) -> dict[str, str]:
    """Address -> ETag of files over https and from S3; left out where the server gives none, refuses or is silent.

    Args:
        addresses: as `SceneList.address` gives them.
        access: the settings by which servers are reached; a host that does not answer is not asked again.
    """
    fetcher = Fetcher(replace(access, timeout=min(access.timeout, TIMEOUT)))
    end, silent = time.monotonic() + SECONDS, set[str]()

    def ask(address: str) -> tuple[str, str]:
        host = urlsplit(address).netloc
        if host in silent or time.monotonic() > end:
            return address, ""
        try:
            return address, fetcher.etag(address)
        except TransientError:
            silent.add(host)
        except ImageryError:
            pass
        return address, ""

    wanted = {str(a): a for a in addresses if urlsplit(a).scheme in ("http", "https", "s3")}
    try:
        with ThreadPoolExecutor(access.connections) as pool:
            return {address: etag for address, etag in pool.map(ask, wanted.values()) if etag}
    finally:
        fetcher.close()
