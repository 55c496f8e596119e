"""Kill the job server or its worker with SIGKILL at random instants; every video must end exactly once, whole.

    python benchmarks/studio_kills.py --kills 300               the real server and the shipped model
    python benchmarks/studio_kills.py --kills 1000 --queue-only processes that only use the queue, thousands a minute

Prints one line of JSON; a video that is lost, doubled, cut, or in two final states is an AssertionError.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

FINAL = ("completed", "failed", "cancelled")
UNLIMITED = ("deaths=1000", "interruptions=1000", "queued=10000", "queued_for_one=10000")


# the queue alone


def work(folder: Path, seed: int) -> None:
    """Use the queue without end: recover, then add, take, cancel and end; what was added stands in a file."""
    from cogvideox.studio.queue import NewVideo, VideoQueue

    rng = random.Random(seed)
    queue = VideoQueue(folder / "queue.sqlite")
    effects = folder / "effects"

    def facts_of(name: str) -> tuple[dict[str, int], int] | None:
        return ({"seed": 1}, 1) if (effects / name).exists() else None

    queue.recover(facts_of, 1000)
    with (folder / "acknowledged.txt").open("ab", buffering=0) as said:
        while True:
            video = queue.add(NewVideo(rng.choice(["ann", "ben"]), {"settings": {"prompt": "x"}}))
            said.write(f"{video.id}\n".encode())
            taken = queue.take()
            if taken is None:
                continue
            choice = rng.random()
            if choice < 0.2:
                queue.cancel(taken.id)
                queue.end(taken.id, "cancelled")
            elif choice < 0.3:
                queue.put_back(taken.id, "deaths")
            else:
                with (effects / taken.id).open("xb"):  # a second effect of one video would fail here
                    pass
                queue.end(taken.id, "completed", size=1)


def queue_kills(folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Counts after so many processes of ``work`` were killed."""
    import cogvideox.studio.queue  # noqa: F401  imported once, every process is a fork

    rng = random.Random(seed)
    (folder / "effects").mkdir(parents=True, exist_ok=True)
    for number in range(kills):
        child = os.fork()
        if not child:
            try:
                work(folder, seed + number)
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "it failed by itself"
    with contextlib.closing(sqlite3.connect(folder / "queue.sqlite")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        states = dict(db.execute("SELECT id, state FROM videos"))
        ends = Counter(
            name for name, becomes in db.execute("SELECT id, becomes FROM transitions") if becomes in FINAL
        )
    acknowledged = (folder / "acknowledged.txt").read_text().split()
    missing = set(acknowledged) - set(states)
    assert not missing, f"{len(missing)} acknowledged videos are lost"
    assert all(ends[name] == (state in FINAL) for name, state in states.items())
    effects = {path.name for path in (folder / "effects").iterdir()}
    completed = {name for name, state in states.items() if state == "completed"}
    assert completed <= effects, "completed without an effect"
    assert all(states[name] in ("completed", "running") for name in effects), (
        "an effect of a video that waits again"
    )
    return {
        "kills": kills,
        "acknowledged": len(acknowledged),
        "there": len(set(acknowledged) & set(states)),
        "ended": sum(ends.values()),
        "completed": len(completed),
    }


# the real server


def server_kills(folder: Path, kills: int, seed: int = 0) -> dict[str, object]:
    """Counts after so many kills of the server or of its worker, with videos in every state."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from support.studio_client import check_folder, studio

    rng, done, which, asked = random.Random(seed), 0, Counter(), []
    while done < kills:
        with studio(folder, *(f"--limit={limit}" for limit in UNLIMITED)) as client:
            if rng.random() < 0.8:
                client.ready()
            while done < kills:
                while rng.random() < 0.7 and len(asked) < 3 * kills:
                    asked.append(client.create(seed=rng.randrange(1000), frames=rng.choice([1, 5, 9])))
                if asked and rng.random() < 0.3:
                    client.ask("POST", f"/v1/videos/{rng.choice(asked)}/cancel")
                if asked and rng.random() < 0.1:
                    client.ask("DELETE", f"/v1/videos/{rng.choice(asked)}")
                time.sleep(rng.uniform(0.0, 3.0))
                done += 1
                if rng.random() < 0.5:
                    client.server.process.kill()
                    client.server.process.wait()
                    which["server"] += 1
                    break
                client.kill_worker()
                which["worker"] += 1
            print(f"{done} kills, {len(asked)} videos", file=sys.stderr)
    with studio(folder) as client:
        until = time.monotonic() + 3600
        while client.get("/v1/queue").json()["waiting"] + client.get("/v1/queue").json()["running"]:
            assert time.monotonic() < until, "the queue does not become empty"
            time.sleep(0.5)
        out = client.out
    states = check_folder(out)
    assert set(asked) <= set(states), "a video that was accepted is lost"
    assert set(states.values()) <= set(FINAL), Counter(states.values())
    litter = [
        p.name
        for name in ("videos", "incoming", "previews")
        for p in (out / name).iterdir()
        if p.name[0] == "."
    ]
    assert not litter, litter
    return {"kills": done, "of": dict(which), "videos": len(states), "states": dict(Counter(states.values()))}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queue-only", action="store_true")
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = queue_kills if chosen.queue_only else server_kills
        print(json.dumps(run(chosen.folder or Path(temporary), chosen.kills, chosen.seed)))


if __name__ == "__main__":
    main()
