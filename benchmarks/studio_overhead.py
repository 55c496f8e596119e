"""What the job server adds to a video: the time from request to file, beside ``generate`` and ``save`` in one process.

    python benchmarks/studio_overhead.py --videos 20

Both make the same videos with the shipped model, in turns, in one run. Prints one line of JSON, seconds as medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median


def main() -> None:
    """See the module's docstring."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import torch

    import cogvideox
    from support.studio_client import SHORT, studio

    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=20)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model, prompt = cogvideox.load("tiny", device="cpu"), "a red circle moves to the right"
    alone, served, added = [], [], []
    with tempfile.TemporaryDirectory() as folder, studio(Path(folder)) as client:
        client.ready()
        for number in range(-1, chosen.videos):  # the first one of each loads what is loaded once
            began = time.monotonic()
            video = cogvideox.generate(model, prompt, seed=number + 1, **SHORT)
            video.save(Path(folder) / f"{number}.mp4")
            own = time.monotonic() - began
            done = client.until(client.create(seed=number + 1), "completed")["cogvideox"]
            facts, queued = done["result"], done["ended_at"] - done["started_at"]
            if number >= 0:
                alone.append(own)
                served.append(queued)
                added.append(queued - facts["seconds"] - facts["stages"]["write"])
    shown = {
        "generate and save": alone,
        "from the queue to the end": served,
        "of it not in the run and its file": added,
    }
    print(
        json.dumps({"videos": chosen.videos} | {name: round(median(each), 4) for name, each in shown.items()})
    )


if __name__ == "__main__":
    main()
