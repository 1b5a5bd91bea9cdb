"""A process that writes tiles of a map in batches, as a worker would; run as a script by the tests of restarts.

    python writers.py URL MAP_ID WORKER WORKERS BATCHES SIZE

Batches overlap those of the next worker by half, so that many rows are told twice, by two processes at a time.
"""

from __future__ import annotations

import sys
from typing import Any

from registry.recording import write_tiles
from registry.tables.database import Database


def tiles(first: int, size: int) -> list[dict[str, Any]]:
    """Tiles `first` to `first + size` of a map; a tile is the same whoever tells of it."""
    return [
        {"name": f"{k:06d}.tif", "key": f"{k:064x}", "sha256": f"{k:064x}", "bytes": k}
        for k in range(first, first + size)
    ]


def total(workers: int, batches: int, size: int) -> int:
    """Tiles of a map that all its workers write together."""
    return workers * batches * size + size // 2


def main(url: str, made: int, worker: int, workers: int, batches: int, size: int) -> None:
    """Write, whatever becomes of the server meanwhile."""
    database = Database(url, patience=60)
    for batch in range(batches):
        some = tiles((batch * workers + worker) * size, size + size // 2)
        database.transact(lambda session, some=some: write_tiles(session, made, None, some), "tiles", map=made)  # type: ignore[misc]
    database.close()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
