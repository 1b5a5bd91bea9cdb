"""A server that drips: a byte now and then, for ever. The time limit is that of the whole request."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from olmoearth_core.errors import TransientError
from olmoearth_core.imagery.access import Access
from olmoearth_core.imagery.read import AssetReader


class _Drip(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(206)
        self.send_header("Content-Range", "bytes 0-16383/1000000")
        self.send_header("Content-Length", "16384")
        self.end_headers()
        try:
            for _ in range(200):
                self.wfile.write(b"I")
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:  # the reader went away
            pass

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Drip)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/B02.tif"
    server.shutdown()
    server.server_close()


def test_a_body_that_drips_is_given_up(url: str) -> None:
    start = time.monotonic()
    with (
        AssetReader(access=Access(attempts=1, timeout=0.5)) as reader,
        pytest.raises(TransientError, match=r"takes longer than 0\.5 s"),
    ):
        reader.header(url)
    assert time.monotonic() - start < 5  # ten seconds is what the whole body would take
