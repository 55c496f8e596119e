"""A worker process: reads jobs as lines of JSON, writes their results as files, answers each with a line of JSON.

It is started as ``python -m cogvideox.curation.worker`` and decodes untrusted videos, so it has few rights: no secrets
in its environment, no network (unless a step asks a server), limits of the system on memory, processor time, open files
and file size, no core dumps, and it dies with its parent. Its answers are read as JSON: a video that takes over this
process cannot run code in the parent.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from cogvideox.clip import Clip
from cogvideox.config import Config
from cogvideox.curation.confined import leave_network, limit, limit_processor, tidy
from cogvideox.curation.cutting import cut, write_strips
from cogvideox.curation.measuring import measure
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.work_folder import clip_folder, write_cut, write_measured
from cogvideox.errors import CogVideoXError, MediaError

FAILED = "failed"  # a step raised an error at a video
NO_MEMORY = ("Insufficient memory", "can't allocate memory")  # OpenCV's and torch's MemoryError


class WorkerConfig(Config):
    """What all jobs of a worker have in common: the folder of videos, the work folder, the recipe."""

    root: str
    work: str
    recipe: Recipe


def do(job: dict[str, Any], config: WorkerConfig) -> None:
    """Do one job (measure, cut or strip) and write its result as a file. Raises OutputError when that fails."""
    root, work, recipe = Path(config.root), Path(config.work), config.recipe
    if job["do"] == "measure":
        write_measured(work, job, recipe, measure(root, job["path"], recipe))
        return
    clips = [Clip.model_validate(one["clip"]) for one in job["clips"]]
    if job["do"] == "strip":
        write_strips(root, job["path"], clips, work, recipe)
        return
    folder = clip_folder(work, job["path"])
    try:
        write_cut(work, job, recipe, cut(root, job["path"], clips, folder, recipe))
    except MediaError as error:
        write_cut(work, job, recipe, {}, str(error).replace(str(root / job["path"]), job["path"]))


def main() -> None:
    """Serve jobs until there are no more lines."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints does not get between our lines
    config = WorkerConfig.parse(json.loads(sys.stdin.readline()))
    warnings.simplefilter("ignore")
    limits = config.recipe.limits
    if not config.recipe.key_variables():
        leave_network()
    try:
        config.recipe.ready()  # before the limit, which is for videos
    except CogVideoXError as error:
        answers.write(json.dumps(_stop(error)) + "\n")
        return
    limit(limits.memory, limits.written, limits.open_files)
    answers.write("{}\n")  # ready
    for line in sys.stdin:
        limit_processor(limits.cpu_seconds)
        answers.write(json.dumps(_answer(line, config)) + "\n")
        tidy()


def _answer(line: str, config: WorkerConfig) -> dict[str, str]:
    try:
        do(json.loads(line), config)
    except CogVideoXError as error:  # a full disk, settings, missing libraries: no video is at fault
        return _stop(error)
    except Exception as error:  # one video must not end the run: it is dropped under this name, and counted
        if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
            return {"error": "too large", "detail": f"needs more than {config.recipe.limits.memory} MiB"}
        return {"error": FAILED, "detail": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return {}


def _stop(error: CogVideoXError) -> dict[str, str]:
    return {"stop": str(error), "kind": type(error).__name__}


if __name__ == "__main__":
    main()
