"""URLs that carry the permission to read them: presigned ones for S3, ones with a token for the Planetary Computer.

Everything behind a URL is then read alike, S3 by exactly the session that reads catalogues (boto3: profiles, endpoint,
requester pays, anonymous). A URL with a permission lives in memory only: it is never frozen, logged or shown.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from olmoearth_core.errors import ImageryError, TransientError
from olmoearth_core.imagery.access import Access, one_line, s3_fault

LIFETIME = 3600
"""Seconds that a presigned URL is good for."""
EARLY = 300.0
"""Seconds before its end at which a permission is not used any more; shorter ones are used for half their life."""


class Signer:
    """Finds the URL to read an address by; safe between threads.

    Args:
        access: the settings by which servers are reached.
    """

    def __init__(self, access: Access):
        self._access = access
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, float]] = {}
        """Token by the URL it is given at, or presigned URL by address; each with the time it is good until."""
        self._clients: dict[str, Any] = {}

    def url(self, address: str) -> str:
        """`address` as a URL that may be read now; itself where nothing has to be added.

        Raises:
            ImageryError: there are no credentials, or the token is refused.
            TransientError: the server that gives tokens does not answer.
        """
        if address.startswith("s3://"):
            return self._remembered(address, lambda: (self._presigned(address), time.time() + LIFETIME))
        if token_url := getattr(address, "token_url", ""):
            token = self._remembered(token_url, lambda: self._token(token_url))
            return f"{address}{'&' if '?' in address else '?'}{token}"
        return str(address)

    def headers(self, address: str) -> dict[str, str]:
        """What has to be sent along: who pays is part of what is signed."""
        pays = address.startswith("s3://") and self._payer(address)
        return {"x-amz-request-payer": "requester"} if pays else {}

    def renew(self, address: str, refused: str) -> bool:
        """Forget the permission in the URL `refused`; whether another may be had."""
        key = address if address.startswith("s3://") else getattr(address, "token_url", "")
        with self._lock:
            known = self._known.get(key)
            if known is not None and refused.endswith(known[0]):
                del self._known[key]
        return bool(key)

    def why_refused(self, address: str) -> ImageryError | None:
        """What S3 says of an address that may not be read; None where it says nothing more."""
        from botocore.exceptions import BotoCoreError, ClientError

        if not address.startswith("s3://"):
            return None
        place = urlsplit(address)
        arguments = {"Bucket": place.netloc, "Key": place.path.lstrip("/"), **self._payer(address)}
        try:
            self._client(place.netloc).get_object(Range="bytes=0-0", **arguments)
        except (BotoCoreError, ClientError) as error:
            fault = s3_fault(error, address)
            return fault if isinstance(fault, ImageryError) else None
        return None

    def _remembered(self, key: str, make: Any) -> str:
        with self._lock:  # one asks, the others wait for what it gets
            value, until = self._known.get(key, ("", 0.0))
            if time.time() >= until:
                value, end = make()
                left = end - time.time()
                self._known[key] = value, end - min(EARLY, left / 2)
            return value

    def _presigned(self, address: str) -> str:
        from botocore.exceptions import BotoCoreError, ClientError

        place = urlsplit(address)
        arguments = {"Bucket": place.netloc, "Key": place.path.lstrip("/"), **self._payer(address)}
        try:
            client = self._client(place.netloc)
            return str(client.generate_presigned_url("get_object", arguments, ExpiresIn=LIFETIME))
        except (BotoCoreError, ClientError) as error:
            raise s3_fault(error, address) from error

    def _payer(self, address: str) -> dict[str, str]:
        return self._access.payer(getattr(address, "requester_pays", False))

    def _client(self, bucket: str) -> Any:
        """The client for a bucket: AWS signs by region, and a bucket tells its own to everybody."""
        if bucket not in self._clients:
            self._clients[bucket] = self._regional(bucket)
        return self._clients[bucket]

    def _regional(self, bucket: str) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        client = self._s3
        if not str(client.meta.endpoint_url).endswith(".amazonaws.com"):
            return client
        try:
            said = client.head_bucket(Bucket=bucket)
        except ClientError as error:  # refused, but told
            said = error.response
        except BotoCoreError as error:
            raise s3_fault(error, f"s3://{bucket}") from error
        region = said.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
        return client if region in (None, client.meta.region_name) else self._access.s3(region)

    @cached_property
    def _s3(self) -> Any:
        return self._access.s3()

    def _token(self, token_url: str) -> tuple[str, float]:
        """The token and the time (seconds since 1970) it is good until."""
        import requests

        place = token_url
        key = os.environ.get("PC_SDK_SUBSCRIPTION_KEY")
        try:
            answer = requests.get(
                place,
                headers={"Ocp-Apim-Subscription-Key": key} if key else {},
                timeout=(min(10.0, self._access.timeout), self._access.timeout),
            )
        except requests.RequestException as error:
            raise TransientError(f"{place}: gives no token at the moment ({one_line(error)})") from error
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            raise TransientError(f"{place}: gives no token at the moment (HTTP status {answer.status_code})")
        if not answer.ok:
            raise ImageryError(
                f"{place}: refuses a token to read this collection (HTTP status {answer.status_code}). Is the "
                "collection's name right, and the key in PC_SDK_SUBSCRIPTION_KEY, if you have one?"
            )
        try:
            value = answer.json()
            end = dt.datetime.fromisoformat(value["msft:expiry"])
            return str(value["token"]), end.replace(tzinfo=end.tzinfo or dt.UTC).timestamp()
        except (ValueError, KeyError, TypeError) as error:
            raise ImageryError(f"{place}: answers with something that is no token ({one_line(error)})") from error
