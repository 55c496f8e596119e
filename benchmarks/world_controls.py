"""Models that must score badly, and truth that must score well: what the world suite's numbers mean.

    python benchmarks/world_controls.py --out runs/controls --prompts 100

A suite that cannot tell these apart measures nothing. The truth row is the noise floor of each measure: what even a
perfect model gets, at this number of videos. Nothing here loads a model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cogvideox.evaluation.metrics import MetricInputs
from cogvideox.evaluation.report import ScoreReport
from cogvideox.evaluation.score import number
from cogvideox.evaluation.suite import evaluate, world_checks
from cogvideox.evaluation.video_folder import open_videos
from cogvideox.video import Video
from cogvideox.world import Prompt, held_out_prompts, render, sample_scene
from cogvideox.world.distortions import distort
from cogvideox.world.scene import random_source

Make = Callable[[int, Sequence[Prompt]], np.ndarray]
SHOWN = (
    "world_all_facts",
    "world_colour_and_shape",
    "world_direction",
    "world_change",
    "dynamic_degree_classical",
    "frozen_share",
    "flicker_l1_pair_mean",
    "fvd_world-64_17f",
    "fvd_world-64_17f_extrapolated",
)
OTHER_SEED = 91  # of scenes that are none of the prompts'


def truth(place: int, prompts: Sequence[Prompt]) -> np.ndarray:
    """What the prompt describes, drawn again over another ground: a perfect model that knows no reference."""
    scene = prompts[place].scene
    return render(type(scene)(**{**_fields(scene), "ground": 7919 * (place + 1)}))


def frozen(place: int, prompts: Sequence[Prompt]) -> np.ndarray:
    """The first frame of the truth, again and again: right content, no motion."""
    return truth(place, prompts)[:1].repeat(17, axis=0)


def shuffled(place: int, prompts: Sequence[Prompt]) -> np.ndarray:
    """The truth of another prompt: right looks and motion, wrong answer."""
    return truth((place + len(prompts) // 2 + 1) % len(prompts), prompts)


def blurred(place: int, prompts: Sequence[Prompt]) -> np.ndarray:
    """The truth, blurred by 1.8 pixels: right answer, poor looks."""
    return distort(truth(place, prompts), "blur", 0.6, random_source(OTHER_SEED, "blur", place))


def noise(place: int, prompts: Sequence[Prompt]) -> np.ndarray:
    """Smooth coloured noise that moves: nothing is right."""
    rng = random_source(OTHER_SEED, "noise", place)
    coarse = rng.integers(0, 255, (17, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def deaf(place: int, prompts: Sequence[Prompt]) -> np.ndarray:
    """A scene of the training split that nobody asked for: a model that does not read its prompt."""
    return render(sample_scene(OTHER_SEED, place))


CONTROLS: dict[str, Make] = {
    "truth": truth,
    "blurred truth": blurred,
    "frozen first frame": frozen,
    "shuffled prompts": shuffled,
    "deaf to prompts": deaf,
    "moving noise": noise,
}


def run(out: Path, num: int, makes: Mapping[str, Make] = CONTROLS) -> dict[str, ScoreReport]:
    """The world suite of every control on the first ``num`` prompts; videos and scores stay in ``out``."""
    prompts = held_out_prompts()[:num]
    found = {}
    for name, make in makes.items():
        folder = out / name.replace(" ", "-") / "videos"
        _fill(folder, make, prompts)
        clips = open_videos(folder)
        checks, keep = world_checks(clips.items)
        real = [Video(render(prompt.scene), 8.0) for prompt in prompts]
        material = MetricInputs(clips.only(keep), real=real, checks=checks)
        found[name] = evaluate(material, "world", folder.parent, name)
    return found


def _fill(folder: Path, make: Make, prompts: Sequence[Prompt]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"file_name": f"{prompt.id}.mkv", "text": prompt.prompt}) for prompt in prompts]
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for place, prompt in enumerate(prompts):
        if not (folder / f"{prompt.id}.mkv").is_file():
            Video(make(place, prompts), 8.0).save(folder / f"{prompt.id}.mkv")


def _fields(scene: object) -> dict:
    return {name: getattr(scene, name) for name in scene.__dataclass_fields__}  # type: ignore[attr-defined]


def table(reports: Mapping[str, ScoreReport], shown: Sequence[str] = SHOWN) -> str:
    """Markdown: a row per model, a column per score, with intervals."""
    lines = [f"| model | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for name, report in reports.items():
        values = {score.name: score for score in report.scores}
        cells = []
        for each in shown:
            score = values.get(each)
            if score is None or score.value is None:
                cells.append("")
                continue
            between = "" if score.low is None else f" ({number(score.low)} to {number(score.high)})"
            cells.append(number(score.value) + between)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run every control, and print their table with further finished evaluations beside them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/controls"))
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument(
        "--beside", nargs="*", default=[], metavar="NAME=FOLDER", help="finished world evaluations"
    )
    arguments = parser.parse_args()
    reports = run(arguments.out, arguments.prompts)
    beside = (text.partition("=")[::2] for text in arguments.beside)
    print(table({name: ScoreReport.read(folder) for name, folder in beside} | reports))


if __name__ == "__main__":
    main()
