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
from typing import TYPE_CHECKING, Any, Literal, TypeVar
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
    fault, said = s3_said(error)
    where = "Check AWS_PROFILE, AWS_ACCESS_KEY_ID and imagery.access in project.yaml."
    match fault:
        case "no credentials":
            return ImageryError(
                f"{address}: {said}. Set AWS_PROFILE or imagery.access.profile; for a public bucket set "
                "imagery.access.anonymous: true."
            )
        case "forbidden":
            return ImageryError(
                f"{address}: these credentials may not read it ({said}). Is the address right, and does the bucket "
                f"have the reader pay (imagery.access.requester_pays)? {where}"
            )
        case "no bucket":
            return ImageryError(f"{address}: {said}. Correct the address, or the endpoint.")
        case "no object":
            return ImageryError(f"{address}: {said}.")
        case "passing":
            return TransientError(f"{address}: {said}")
    return ImageryError(f"{address}: {said}. {where}")


Fault = Literal["no credentials", "forbidden", "no bucket", "no object", "passing", "refused"]


def s3_said(error: Exception) -> tuple[Fault, str]:
    """Which kind of fault boto3 raised, and what it says, without a full stop; "passing" is worth trying again."""
    from botocore import exceptions as boto

    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return "no credentials", "no credentials for S3 were found"
    if isinstance(error, boto.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"):
            return "refused", f"the credentials are wrong (S3 says {code})"
        if code in ("ExpiredToken", "ExpiredTokenException", "RequestExpired"):
            return "refused", f"the credentials have expired (S3 says {code}). Log in again"
        if status == 403:
            return "forbidden", f"S3 says {code or 403}"
        if code == "NoSuchBucket":
            return "no bucket", "there is no such bucket"
        if status == 404 or code in ("NoSuchKey", "404"):
            return "no object", "there is no such object"
        if status in (408, 429) or status >= 500 or code in ("SlowDown", "RequestTimeout"):
            return "passing", f"S3 cannot answer at the moment ({code or status})"
        return "refused", f"S3 refuses ({code or status}: {one_line(error)})"
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectionError | boto.HTTPClientError):
        return "passing", f"S3 cannot be reached ({one_line(error)})"
    if isinstance(error, boto.BotoCoreError):
        return "refused", f"S3 cannot be used ({one_line(error)})"
    return "passing", f"S3 was cut short ({one_line(error)})"  # in the middle of a body


def one_line(error: BaseException) -> str:
    """The text of an error in one line of at most 200 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."
