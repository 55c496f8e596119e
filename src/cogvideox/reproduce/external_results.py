"""Tables of the paper for which nothing is trained: from a benchmark, an evaluation, a study, a classifier's report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

from cogvideox.errors import InputError, OutputError
from cogvideox.evaluate_model.run import evaluate
from cogvideox.evaluation.report import FILE as REPORT
from cogvideox.evaluation.report import ScoreReport
from cogvideox.evaluation.score import number
from cogvideox.rating.grades import table_4
from cogvideox.rating.ledger import RatingLedger
from cogvideox.rating.study import LEDGER, Study
from cogvideox.reproduce.arms import Scale
from cogvideox.reproduce.experiments import Experiment
from cogvideox.reproduce.run import ExperimentOutcome
from cogvideox.reproduce.significance import Status

BENCH = Path(__file__).resolve().parents[3] / "benchmarks" / "gpu.py"
NEEDS: Status = "needs weights or data"
NEAR = 0.05  # a printed number is met when ours is within this share of it
COLUMNS: Mapping[str, dict[str, str]] = {
    "table2": {"flicker_paper_style_sum16": "flickering", "psnr_frame_mean": "PSNR"},
    "table3": {
        "vbench_human_action_raw": "human action",
        "vbench_scene_raw": "scene",
        "vbench_dynamic_degree_raw": "dynamic degree",
        "vbench_multiple_objects_raw": "multiple objects",
        "vbench_appearance_style_raw": "appearance style",
        "devil_dynamic_quality": "Dynamic Quality",
        "mtscore": "GPT4o-MTScore",
    },
}
PRINTED: Mapping[str, dict[str, tuple[float, ...]]] = {
    "table2": {"5b": (85.5, 29.1), "2b": (85.5, 29.1)},
    "table3": {
        "5b": (96.8, 55.44, 62.22, 70.95, 24.44, 69.5, 3.36),
        "2b": (96.6, 55.35, 66.39, 57.68, 24.37, 57.7, 3.09),
    },
}
PAPER_MEAN_14 = 0.94


def from_benchmark(experiment: Experiment, scale: Scale) -> ExperimentOutcome:
    """Tables 7 and 8: one case of the GPU benchmark at a tiny size. Raises InputError without it, OutputError."""
    if not BENCH.is_file():
        raise InputError(f"{BENCH.name}: benchmarks are not installed; run this in a clone of the repository")
    case = "video" if experiment.name == "table7" else "step"
    command = [sys.executable, str(BENCH), "--small", "--only", case]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise OutputError(f"{BENCH.name} ended with {done.returncode}: {last}")
    benchmark = json.loads(done.stdout)
    lines = ["| tiny size, this machine | found |", "|---|---|"]
    lines += [
        f"| {name.partition(' ')[2]} shrunk to 9×32×48, two layers | {value.partition(',')[0]} |"
        for name, value in benchmark["found"].items()
        if name.startswith(case)
    ]
    why = "the tiny size shows only that every part runs; launches, not arithmetic, take its time"
    machine = benchmark["machine"].removeprefix("Measured on ")
    return ExperimentOutcome(experiment, NEEDS, why, "\n".join(lines), machine)


def from_evaluation(experiment: Experiment, scale: Scale) -> ExperimentOutcome:
    """Tables 2 and 3: the evaluation in ``out/<name>``; Table 2 of the shipped model is made when there is none."""
    folder = scale.out / experiment.name
    if not (folder / REPORT).is_file():
        if experiment.name != "table2":
            return _absent(experiment, "no evaluation has been made")
        evaluate("tiny", folder, suite="vae", prompts=scale.videos)
    report = ScoreReport.read(folder)
    columns = COLUMNS[experiment.name]
    values = {label: _value(report, name) for name, label in columns.items()}
    model = Path(report.subject).name
    rows = PRINTED[experiment.name]
    lines = [f"| model | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    lines.append(
        f"| {model}, ours | {' | '.join(number(value) or 'not computed' for value in values.values())} |"
    )
    lines += [
        f"| {name}, paper | {' | '.join(f'{v:g}' for v in printed)} |" for name, printed in rows.items()
    ]
    table, words = "\n".join(lines), report.counted
    if model not in rows:
        return ExperimentOutcome(experiment, NEEDS, f"{model} is not a model of the paper", table, words)
    off = [
        label
        for (label, value), printed in zip(values.items(), rows[model], strict=True)
        if value is None or abs(value - printed) > NEAR * printed
    ]
    status: Status = "not reproduced" if off else "reproduced in direction"
    why = f"not within {NEAR:.0%}: {', '.join(off)}" if off else f"every number within {NEAR:.0%}"
    return ExperimentOutcome(experiment, status, why, table, words)


def from_study(experiment: Experiment, scale: Scale) -> ExperimentOutcome:
    """Table 4: a study of raters in ``out/table4``."""
    folder = scale.out / experiment.name
    if not (folder / LEDGER).is_file():
        return _absent(experiment, "no study has been made")
    study = Study.read(folder)
    entries = list(RatingLedger(folder / LEDGER).entries())
    ratings = study.ratings(entries)
    if study.mode != "grades" or not ratings:
        return _absent(experiment, f"the study holds {len(ratings)} ratings, of {study.mode}")
    raters = len({entry.rater for entry in entries})
    words = f"{len(ratings)} ratings by {raters} raters"
    return ExperimentOutcome(
        experiment, NEEDS, "these raters and videos are not the paper's", table_4(ratings), words
    )


def from_labels(experiment: Experiment, scale: Scale) -> ExperimentOutcome:
    """Table 14: the report of the classifier that ships."""
    file = resources.files("cogvideox") / "shipped" / "labels" / "report.json"
    found = json.loads(file.read_text(encoding="utf-8"))["test"]
    lines = ["| label | TP | FP | TN | FN | accuracy | 95 % |", "|---|---|---|---|---|---|---|"]
    for each in found:
        counts = " | ".join(f"{each[key]:.2f}" for key in ("tp", "fp", "tn", "fn"))
        low, high = each["interval"]
        lines.append(f"| {each['label']} | {counts} | {each['accuracy']:.3f} | {low:.2f} to {high:.2f} |")
    mean = sum(each["accuracy"] for each in found) / len(found)
    clips = sum(each["clips"] for each in found)
    why = f"mean accuracy {mean:.3f}, the paper's is {PAPER_MEAN_14}; faults made on purpose, not labelled clips"
    return ExperimentOutcome(
        experiment, "not reproduced", why, "\n".join(lines), f"{clips} clips of held-out videos"
    )


READERS: dict[str, Callable[[Experiment, Scale], ExperimentOutcome]] = {
    "bench": from_benchmark,
    "evaluation": from_evaluation,
    "study": from_study,
    "labels": from_labels,
}


def _absent(experiment: Experiment, what: str) -> ExperimentOutcome:
    return ExperimentOutcome(experiment, NEEDS, what, "", "")


def _value(report: ScoreReport, name: str) -> float | None:
    """A score by its name or, for a judge's, by how its name begins; percent for VBench's shares."""
    for score in report.scores:
        if score.name == name or (name == "mtscore" and score.name.startswith("mtscore_")):
            if score.value is None:
                return None
            return 100 * score.value if name.startswith("vbench_") else score.value
    return None
