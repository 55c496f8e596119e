"""The verb evaluate: a model makes videos for a suite's prompts, the suite's judge reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cogvideox.cli import checks
from cogvideox.cli.generate import Job, load, resolve
from cogvideox.cli.terminal import progress, result, result_json, say
from cogvideox.errors import ConfigError

SETTINGS = "evaluation.json"


def evaluate_model(
    name: str, prompts: int | None, seeds: int, out: Path, settings: dict[str, Any], job: Job
) -> None:
    """Score on held-out prompts of the tiny world: ``prompts`` of them (None: all), ``seeds`` videos each.

    Prints the table; keeps verdicts, settings and scores in ``out``, from which a stopped run goes on.
    """
    import numpy as np

    from cogvideox.evaluation.world import evaluate_world
    from cogvideox.generate.run import generate
    from cogvideox.manifest import digests_of
    from cogvideox.video import check_output, write_json
    from cogvideox.world import held_out_prompts

    asked = list(held_out_prompts())
    chosen = asked if prompts is None else asked[:prompts]
    check_output(out / SETTINGS, overwrite=True)
    options = resolve({"prompt": chosen[0].prompt, **settings})
    folder = checks.check_request(name, options).folder
    weights = digests_of(folder)  # what lies there now, which may be another model than before
    files = weights | digests_of(folder, "*/*.json")
    _same_run(out, {"model": str(folder.resolve()), "files": files, "dtype": job.dtype, "options": settings})
    model = load(job, folder, weights)
    with progress("evaluating") as show:

        def make(prompt: str, seed: int) -> np.ndarray:
            return generate(model, resolve({**settings, "prompt": prompt, "seed": seed})).frames

        report = evaluate_world(
            make, out, chosen, tuple(range(seeds)), lambda done, total: show("videos judged", done, total)
        )
    scores = json.loads(report.to_json())
    path = write_json(out / "scores.json", scores, overwrite=True)
    result_json(scores) if job.as_json else result(report.table())
    say(f"every verdict is in {path}")


def _same_run(out: Path, settings: dict[str, Any]) -> None:
    """Verdicts of one folder belong to one model and one way of sampling. Raises ConfigError."""
    from cogvideox.video import write_json

    file = out / SETTINGS
    settings = json.loads(json.dumps(settings))
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_json(file, settings)
        return
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: not readable ({type(error).__name__}); choose another --out") from None
    if not isinstance(before, dict):
        raise ConfigError(f"{file}: no record of an evaluation; choose another --out")
    if before != settings:
        changed = [key for key in settings if before.get(key) != settings[key]]
        raise ConfigError(
            f"{out}: holds an evaluation with another {', '.join(changed)}; choose another --out"
        )
