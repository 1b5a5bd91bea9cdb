"""A client of the Prefect server that the settings name; whatever the server refuses becomes one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flows.errors import DeployError

if TYPE_CHECKING:
    import httpx
    from prefect.client.orchestration import SyncPrefectClient

REFUSED = (401, 403)
BUSY = 503
"""What Prefect's server answers where another of its writers had its SQLite: nothing was written, ask again."""
FIRST_PAUSE, LONGER = 0.1, 5
"""Seconds before a busy server is asked again, and how much longer each next pause is; Prefect's own first is 2 s,
which for 800 deployments of 30 ms each was most of the time."""


@contextmanager
def prefect_server() -> Iterator[SyncPrefectClient]:
    """A client of the server in PREFECT_API_URL.

    Raises:
        DeployError: none is set, it does not answer, it refuses the credentials, or something else.
    """
    from flows.run import prepare_prefect

    prepare_prefect()
    import httpx
    from prefect import get_client
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if url is None:
        raise DeployError(
            "No Prefect server is set, and deployments live on one. Start it (`prefect server start`) and set "
            "PREFECT_API_URL, for example to http://127.0.0.1:4200/api."
        )
    url = re.sub(r"//\S*@", "//", url)  # who writes a password into it does not want to read it here
    with get_client({"event_hooks": {"response": [_soon_again]}}, sync_client=True) as client:
        if (problem := client.api_healthcheck()) is not None:
            raise DeployError(
                f"PREFECT_API_URL {url} does not answer ({problem}). Start the server, or correct the setting."
            )
        try:
            yield client
        except (PrefectException, httpx.HTTPError) as error:
            response = getattr(error, "response", None)
            if response is not None and response.status_code in REFUSED:
                raise DeployError(
                    f"The Prefect server at {url} refuses these credentials ({response.status_code}). Set "
                    "PREFECT_API_AUTH_STRING (user:password), or PREFECT_API_KEY where it wants a key."
                ) from error
            raise DeployError(f"The Prefect server at {url} says: {' '.join(str(error).split())[:500]}") from error


def _soon_again(response: httpx.Response) -> None:
    """Tell Prefect's client, which asks a busy server again, to do so soon at first."""
    if response.status_code == BUSY and "Retry-After" not in response.headers:
        about = response.request.extensions
        about["pause"] = about["pause"] * LONGER if "pause" in about else FIRST_PAUSE
        response.headers["Retry-After"] = str(about["pause"])
