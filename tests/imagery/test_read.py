"""Reading assets: over http with faults, at edges, with odd nodata, and with files that are broken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasters import LEFT, TOP, Layer, write_cog

from olmoearth_core.errors import ImageryError, TransientError
from olmoearth_core.framing import Timestep
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.access import Access
from olmoearth_core.imagery.blocks import blocks_of
from olmoearth_core.imagery.compose import compose
from olmoearth_core.imagery.read import AssetReader
from olmoearth_core.imagery.sampling import SourceWindow
from olmoearth_core.imagery.scene import Scene, SceneList
from olmoearth_core.stage import Meter

PIXELS = np.random.default_rng(0).integers(1, 10_000, (300, 200)).astype(np.uint16)
WHOLE = SourceWindow(0, 300, 0, 200)
HASTY = Access(first_pause=0.001)


@pytest.fixture
def cog(tmp_path: Path) -> Path:
    return write_cog(tmp_path / "B02.tif", Layer(PIXELS))


def test_a_window_is_padded_with_nodata(cog: Path) -> None:
    with AssetReader() as reader:
        pixels = reader.read(str(cog), SourceWindow(-1, 3, 198, 201))
    assert pixels.shape == (4, 3)
    assert not pixels[0].any()
    assert not pixels[:, 2].any()
    assert np.array_equal(pixels[1:, :2], PIXELS[:3, 198:])


@pytest.mark.parametrize("nodata", [65535, None])
def test_another_nodata_value_becomes_0(tmp_path: Path, nodata: float | None) -> None:
    pixels = np.array([[65535, 5]], np.uint16)
    path = write_cog(tmp_path / "a.tif", Layer(pixels), nodata=nodata)
    with AssetReader() as reader:
        expected = [[65535 if nodata is None else 0, 5]]
        assert reader.read(str(path), SourceWindow(0, 1, 0, 2)).tolist() == expected


def test_the_header_tells_where_the_pixels_are(cog: Path) -> None:
    with AssetReader() as reader:
        header = reader.header(str(cog))
    assert header.grid.crs == "EPSG:32631"
    assert (header.grid.width, header.grid.height, header.grid.resolution) == (200, 300, 10.0)
    assert header.block == (64, 64)


def test_blocks_that_a_window_touches() -> None:
    assert blocks_of(SourceWindow(63, 65, 0, 64), (64, 64)) == [(0, 0), (1, 0)]
    assert blocks_of(SourceWindow(64, 128, 10, 129), (64, 64)) == [(1, 0), (1, 1), (1, 2)]


def test_a_truncated_asset_gives_what_is_whole_and_tells_the_rest(cog: Path) -> None:
    cog.write_bytes(cog.read_bytes()[:-2000])
    with AssetReader() as reader:
        assert np.array_equal(reader.read(str(cog), SourceWindow(0, 10, 0, 10)), PIXELS[:10, :10])
        with pytest.raises(ImageryError, match=r"B02\.tif.*Read failed|B02\.tif.*IReadBlock failed"):
            reader.read(str(cog), WHOLE)
        # the reader is still good for what can be read
        assert np.array_equal(reader.read(str(cog), SourceWindow(0, 10, 0, 10)), PIXELS[:10, :10])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # that is what it is about
def test_a_raster_without_position_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", width=2, height=2, count=1, dtype="uint8") as target:
        target.write(np.ones((2, 2), np.uint8), 1)
    with AssetReader() as reader, pytest.raises(ImageryError, match=r"a\.tif: has no coordinate reference system"):
        reader.header(str(path))


def test_few_files_are_kept_open(tmp_path: Path) -> None:
    paths = [write_cog(tmp_path / f"{i}.tif", Layer(np.full((4, 4), i + 1, np.uint8))) for i in range(6)]
    with AssetReader(keep_open=2) as reader:
        for _ in range(2):
            for i, path in enumerate(paths):
                assert (reader.read(str(path), SourceWindow(0, 4, 0, 4)) == i + 1).all()
            assert len(reader._idle) <= 2
    assert not reader._idle


# ------------------------------------------------------------------ over http


@dataclass
class _Server:
    """Serves one folder with range requests; answers the first `faults` requests for data with `status`."""

    folder: Path
    status: int = 503
    faults: int = 0
    requests: int = 0
    cut: bool = False
    """Faults are bodies that end too early, in place of `status`."""
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fails(self) -> bool:
        with self._lock:
            self.requests += 1
            self.faults -= 1
            return self.faults >= 0


@contextmanager
def serve(server: _Server) -> Iterator[_Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(head=True)

        def do_GET(self) -> None:
            self.answer(head=False)

        def answer(self, *, head: bool) -> None:
            path = server.folder / self.path.split("?")[0].lstrip("/")
            fails = server.fails()
            if (fails and not server.cut) or not path.is_file():
                self.send_response(server.status if path.is_file() else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = path.read_bytes()
            if wanted := self.headers.get("Range"):
                first, last = wanted.removeprefix("bytes=").split("-")
                part = content[int(first) : int(last) + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
            else:
                part = content
                self.send_response(200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if not head:
                self.wfile.write(part[: len(part) // 2] if fails else part)
                self.close_connection = fails

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        server.url = f"http://127.0.0.1:{http.server_port}"
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "faults"), [(503, 1), (503, 3), (500, 2), (429, 2)])
def test_faults_that_pass_are_not_seen(cog: Path, status: int, faults: int) -> None:
    meter = Meter()
    with serve(_Server(cog.parent, status, faults)) as server, AssetReader(meter, access=HASTY) as reader:
        assert np.array_equal(reader.read(f"{server.url}/B02.tif", WHOLE), PIXELS)
    assert meter.bytes_read > 0


def test_a_fault_in_the_middle_is_not_seen(cog: Path) -> None:
    with serve(_Server(cog.parent)) as server, AssetReader(access=HASTY) as reader:
        reader.read(f"{server.url}/B02.tif", SourceWindow(0, 10, 0, 10))
        server.faults = 2
        assert np.array_equal(reader.read(f"{server.url}/B02.tif", WHOLE), PIXELS)


def test_a_fault_that_stays_is_transient_and_not_remembered(cog: Path) -> None:
    with serve(_Server(cog.parent, 503, 1_000_000)) as server, AssetReader(access=HASTY) as reader:
        with pytest.raises(TransientError, match=rf"/B02\.tif: .*503.*\({HASTY.attempts} attempts\).*same command"):
            reader.read(f"{server.url}/B02.tif?token=secret", WHOLE)
        assert server.requests >= HASTY.attempts
        server.faults = 0
        assert np.array_equal(reader.read(f"{server.url}/B02.tif?token=secret", WHOLE), PIXELS)


def test_a_dead_host_is_transient(cog: Path) -> None:
    with serve(_Server(cog.parent)) as server:
        address = f"{server.url}/B02.tif"
    with AssetReader(access=HASTY) as reader, pytest.raises(TransientError, match="B02"):
        reader.read(address, WHOLE)


@pytest.mark.parametrize("cut", [False, True])
def test_an_outage_fails_compose_and_leaves_no_hole(cog: Path, cut: bool) -> None:
    moment = datetime(2024, 5, 5, tzinfo=UTC)
    may = Timestep(date(2024, 5, 1), date(2024, 6, 1))
    box = Grid("EPSG:32631").around((LEFT, TOP - 3000, LEFT + 2000, TOP))
    with serve(_Server(cog.parent, 503, 1_000_000, cut=cut)) as server, AssetReader(access=HASTY) as reader:
        scene = Scene(
            "a",
            "sentinel2_l2a",
            None,
            moment,
            0.0,
            {"B02": f"{server.url}/B02.tif"},
            None,
            "numbers",
            0,
            "",
            (2, 41, 4, 43),
        )
        scenes = SceneList("test", {}, (scene,), cog.parent)
        arguments: dict[str, Any] = {"modality": "sentinel2_l2a", "bands": ["B02"], "composite": "median"}
        with pytest.raises(TransientError, match=r"B02\.tif"):
            compose(scenes, box, [may], reader=reader, **arguments)
        assert reader.failures == []
        server.faults = 2
        cube = compose(scenes, box, [may], reader=reader, **arguments)
    assert np.array_equal(cube.data[0, 0], PIXELS)


def test_what_is_not_there_is_asked_once(tmp_path: Path) -> None:
    with serve(_Server(tmp_path)) as server, AssetReader(access=HASTY) as reader:
        with pytest.raises(ImageryError, match=r"B02\.tif"):
            reader.read(f"{server.url}/B02.tif", WHOLE)
        assert server.requests <= 2  # GDAL may ask with HEAD and with GET
