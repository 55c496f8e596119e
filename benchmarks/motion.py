"""Do real films in which little moves score below films in which much moves? The scores of a curated folder, by tags.

python benchmarks/motion.py CURATED index.jsonl

``CURATED`` is what ``cogvideox curate`` made; dropped pieces count as kept ones do. ``index.jsonl`` says what a person
saw, a film a line: ``{"file": "a.mp4", "tags": ["camera:static"], "negative_label_hints": ["static"]}``.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

from cogvideox.curation.report import dropped_rows, kept_rows

GROUPS = {
    "little moves": {"low_motion", "static"},
    "the camera rests": {"camera:static", "camera:nearly_static"},
    "the camera moves, or all is fast": {
        "camera:push_in",
        "camera:vehicle",
        "camera:follow",
        "handheld",
        "fast_motion",
    },
}
"""The first group that has one of a film's tags is the film's."""
SCORES = ("motion", "motion_top", "motion_own")


def films(curated: Path) -> dict[str, dict[str, float]]:
    """Film -> its scores, the mean over its pieces by their seconds; films that were not looked at are missing."""
    kept = [json.loads(row["record"]) for row in kept_rows(curated, ["record"])]
    seconds: dict[str, float] = defaultdict(float)
    sums: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(SCORES, 0.0))
    for piece in [*kept, *dropped_rows(curated)]:
        if "motion" not in piece["scores"]:
            continue
        name, length = Path(piece["source"]["path"]).name, piece["span"]["end"] - piece["span"]["start"]
        seconds[name] += length
        for score in SCORES:
            sums[name][score] += length * piece["scores"][score]
    return {name: {score: value / seconds[name] for score, value in sums[name].items()} for name in sums}


def groups(index: Path) -> dict[str, str]:
    """Film -> group; films without such tags are left out."""
    found = {}
    for line in filter(str.strip, index.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        tags = {*row["tags"], *row.get("negative_label_hints", ())}
        group = next((name for name, wanted in GROUPS.items() if tags & wanted), None)
        if group:
            found[Path(row["file"]).name] = group
    return found


def ordered(low: list[float], high: list[float]) -> float:
    """The share of pairs whose first is below its second."""
    return sum(a < b for a in low for b in high) / (len(low) * len(high))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("curated", type=Path)
    parser.add_argument("index", type=Path)
    chosen = parser.parse_args()
    scores, group = films(chosen.curated), groups(chosen.index)
    print(f"| film | {' | '.join(SCORES)} | seen |\n|---|{'---|' * (len(SCORES) + 1)}")
    for name in sorted(set(scores) & set(group), key=lambda name: scores[name]["motion"]):
        print(f"| {name} | {' | '.join(f'{scores[name][score]:.4f}' for score in SCORES)} | {group[name]} |")
    names = list(GROUPS)
    print("\nPairs in the right order:\n")
    for low, high in ((0, 1), (0, 2), (1, 2)):
        for score in SCORES:
            values = [
                [scores[f][score] for f in scores if group.get(f) == names[each]] for each in (low, high)
            ]
            share, count = ordered(*values), len(values[0]) * len(values[1])
            print(f"- {score}, {names[low]} below {names[high]}: {share:.3f} of {count}")


if __name__ == "__main__":
    main()
