"""How servers are reached: S3's settings, patience with faults, and how much is asked of a server at once.

The AWS settings of the environment hold, as boto3 reads them (AWS_PROFILE, AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, ...),
with AWS_REQUEST_PAYER and AWS_NO_SIGN_REQUEST as GDAL reads them; `imagery.access` in project.yaml goes before them. No
secret is ever a key there.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from olmoearth_core.errors import ImageryError, TransientError

if TYPE_CHECKING:
    from olmoearth_core.project import Project

Result = TypeVar("Result")

LONGEST_PAUSE = 60.0
"""Seconds; a server that asks for more (Retry-After) gets this."""


@dataclass(frozen=True)
class Access:
    """The settings of `imagery.access`."""

    profile: str | None = None
    """Of ~/.aws/config; AWS_PROFILE where not given."""
    endpoint: str | None = None
    """URL of an S3 server that is not AWS; AWS_ENDPOINT_URL_S3 where not given."""
    requester_pays: bool = False
    """Agree to pay for what is read; AWS_REQUEST_PAYER=requester says so too."""
    anonymous: bool = False
    """Read public buckets without credentials; AWS_NO_SIGN_REQUEST=YES says so too."""
    attempts: int = 5
    """Times that a request is made before a fault that may pass is believed."""
    first_pause: float = 0.5
    """Seconds before the second attempt; doubles with each, times a random factor so that readers do not march."""
    timeout: float = 60.0
    """Seconds that one request may take, a body that stalls included."""
    connections: int = 8
    """Requests at once to one host."""

    def patiently(self, attempt: Callable[[], Result]) -> Result:
        """The result of `attempt`, made again with growing pauses as long as it raises TransientError.

        Raises:
            TransientError: in all attempts.
        """
        for turn in range(1, self.attempts + 1):
            try:
                return attempt()
            except TransientError as error:
                if turn == self.attempts or getattr(error, "futile", False):
                    raise
                pause = self.first_pause * 2 ** (turn - 1) * random.uniform(0.5, 1.5)
                time.sleep(min(max(pause, getattr(error, "retry_after", 0.0)), LONGEST_PAUSE))
        raise AssertionError("attempts is at least 1")

    def s3(self, region: str | None = None) -> Any:
        """A boto3 client for S3 by these settings; in `region`, or the settings' own.

        Raises:
            ImageryError: the profile is not there, or the settings contradict each other.
        """
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        endpoint = self.endpoint or _endpoint()
        virtual = os.environ.get("AWS_VIRTUAL_HOSTING", "").upper() in ("YES", "TRUE", "ON")
        settings: dict[str, Any] = {
            "signature_version": UNSIGNED if self._unsigned() else "s3v4",
            "connect_timeout": min(10.0, self.timeout),
            "read_timeout": self.timeout,
            "max_pool_connections": max(10, self.connections),
            "retries": {"total_max_attempts": 1},  # `patiently` does it, and knows how long to wait
        }
        if endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
            settings["s3"] = {"addressing_style": "virtual" if virtual else "path"}
        try:
            session = boto3.Session(profile_name=self.profile)
            # a bucket elsewhere is found by its own answer (signing.py); this only has to be some region
            region = region or session.region_name or "us-east-1"
            return session.client("s3", endpoint_url=endpoint, region_name=region, config=Config(**settings))
        except (BotoCoreError, ValueError) as error:
            raise ImageryError(
                f"the settings for S3 cannot be used ({one_line(error)}). Correct imagery.access in project.yaml, or "
                "the AWS_* settings."
            ) from error

    def payer(self, wanted: bool = False) -> dict[str, str]:
        """The argument that agrees to pay, where a setting or the bucket (`wanted`) says so."""
        told = os.environ.get("AWS_REQUEST_PAYER", "").lower() == "requester"
        pays = (wanted or told or self.requester_pays) and not self._unsigned()
        return {"RequestPayer": "requester"} if pays else {}

    def _unsigned(self) -> bool:
        return self.anonymous or os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "1", "ON")


def access_of(project: Project) -> Access:
    """The settings of a project."""
    return Access(**project.config.imagery.access.model_dump())


def _endpoint() -> str | None:
    """The endpoint of those who know GDAL's settings only (AWS_S3_ENDPOINT=host:port, AWS_HTTPS)."""
    place = os.environ.get("AWS_S3_ENDPOINT")
    if not place or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        return None
    if urlsplit(place).netloc:
        return place
    plain = os.environ.get("AWS_HTTPS", "YES").upper() in ("NO", "FALSE", "OFF")
    return f"{'http' if plain else 'https'}://{place}"


def s3_fault(error: Exception, address: str) -> ImageryError | TransientError:
    """What boto3 raised for `address`, as a sentence; TransientError where trying again may help."""
    from botocore import exceptions as boto

    where = "Check AWS_PROFILE, AWS_ACCESS_KEY_ID and imagery.access in project.yaml."
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return ImageryError(
            f"{address}: no credentials for S3 were found. Set AWS_PROFILE or imagery.access.profile; for a public "
            "bucket set imagery.access.anonymous: true."
        )
    if isinstance(error, boto.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"):
            return ImageryError(f"{address}: the credentials are wrong (S3 says {code}). {where}")
        if code in ("ExpiredToken", "ExpiredTokenException", "RequestExpired"):
            return ImageryError(f"{address}: the credentials have expired (S3 says {code}). Log in again. {where}")
        if status == 403:
            return ImageryError(
                f"{address}: these credentials may not read it (S3 says {code or 403}). Is the address right, and does "
                f"the bucket have the reader pay (imagery.access.requester_pays)? {where}"
            )
        if code == "NoSuchBucket":
            return ImageryError(f"{address}: there is no such bucket. Correct the address, or the endpoint.")
        if status == 404 or code in ("NoSuchKey", "404"):
            return ImageryError(f"{address}: there is no such object.")
        if status in (408, 429) or status >= 500 or code in ("SlowDown", "RequestTimeout"):
            return TransientError(f"{address}: S3 cannot answer at the moment ({code or status})")
        return ImageryError(f"{address}: S3 refuses ({code or status}: {one_line(error)}). {where}")
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectionError | boto.HTTPClientError):
        return TransientError(f"{address}: S3 cannot be reached ({one_line(error)})")
    if isinstance(error, boto.BotoCoreError):
        return ImageryError(f"{address}: cannot be read from S3 ({one_line(error)}). {where}")
    return TransientError(f"{address}: cannot be read from S3 ({one_line(error)})")  # a body that was cut short


def one_line(error: BaseException) -> str:
    """The text of an error in one line of at most 200 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."
