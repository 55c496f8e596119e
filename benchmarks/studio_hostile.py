"""Over a thousand hostile requests, five hundred scripts and over three hundred hostile files at a studio on a socket.

    python benchmarks/studio_hostile.py

Prints one line of JSON: how many of each were sent, the codes of the answers, and how many answers were not as they
should be (a 5xx, one without a reason, one that gives something away, a file left, a script that ran); these on stderr.
Scripts are also shown on the page in a browser, where there is one.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.browser import CHROMIUM  # noqa: E402
from support.hostile import hostile_files, hostile_requests, script_strings  # noqa: E402
from support.hostile_runs import (  # noqa: E402
    FILE_LIMITS,
    Figures,
    files_refused,
    raw_answered,
    requests_refused,
    scripts_kept,
    scripts_shown,
)
from support.studio_app import served_studio  # noqa: E402


def main() -> None:
    """Send everything and print the figures; the exit status is 1 where something was not as it should be."""
    found: dict[str, Figures] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        files = list(hostile_files(Path(folder) / "files"))
        with served_studio(Path(folder) / "studio", page=True, limits=FILE_LIMITS) as client:
            found["requests"] = requests_refused(client, list(hostile_requests()))
            found["raw"] = raw_answered(client)
            found["scripts"] = scripts_kept(client, script_strings(500))
            found["files"] = files_refused(client, files)
        if CHROMIUM is not None:
            with served_studio(Path(folder) / "page", page=True, limits=FILE_LIMITS) as client:
                found["scripts on the page"] = scripts_shown(client, script_strings(500))
    for name, figures in found.items():
        for fault in figures.faults:
            print(f"{name}: {fault}", file=sys.stderr)
    figures = {name: each.to_dict() for name, each in found.items()}
    print(json.dumps(figures | {"seconds": round(time.monotonic() - began, 1)}))
    sys.exit(any(each.faults for each in found.values()))


if __name__ == "__main__":
    main()
