"""`python -m olmoearth_core.again FOLDER`: make a map again with the code and the environment that this runs in.

Says what went wrong on standard error, in one sentence, and exits with 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

from olmoearth_core.again.make import make_again
from olmoearth_core.errors import CoreError
from olmoearth_core.progress import Silent

if __name__ == "__main__":
    try:
        make_again(Path(sys.argv[1]).absolute(), Silent())
    except CoreError as error:
        sys.exit(" ".join(str(error).split()))
