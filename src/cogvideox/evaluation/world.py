"""The world suite: make a video for every held-out prompt and seed, let the judge read the frames, print a table.

Any model can be judged: ``make`` is a function from (prompt, seed) to frames. Finished videos are verdicts in
``verdicts.jsonl``; a rerun makes only what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox.errors import ConfigError, InputError
from cogvideox.files import parse_json, read_small_text
from cogvideox.files.atomic import write_text
from cogvideox.files.jsonl import lines_of
from cogvideox.world import judge
from cogvideox.world.held_out import Prompt, held_out_prompts
from cogvideox.world.score import FactScore, report, report_by_tier, score_table

Make = Callable[[str, int], np.ndarray]


@dataclass(frozen=True)
class WorldReport:
    """Verdicts of a run, and the table made from them."""

    records: list[dict[str, Any]]

    @property
    def rows(self) -> list[FactScore]:
        """How often each kind of fact holds."""
        return report(record["verdict"] for record in self.records)

    def table(self) -> str:
        """Markdown: facts, then tiers, with 95 % Wilson intervals."""
        tiers = report_by_tier((record["tier"], record["verdict"]) for record in self.records)
        return f"{score_table(self.rows)}\n\nAll facts, by tier:\n\n{score_table(tiers)}"

    def to_json(self) -> str:
        """Every verdict and every row."""
        rows = [{name: getattr(row, name) for name in FactScore.__dataclass_fields__} for row in self.rows]
        return json.dumps({"rows": rows, "videos": self.records}, indent=1)


def evaluate_world(
    make: Make,
    out: Path,
    prompts: Sequence[Prompt] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    on_item: Callable[[int, int], Any] | None = None,
) -> WorldReport:
    """Judge ``make`` on prompts x seeds.

    ``make(prompt, seed)`` gives frames [t, h, w, 3] uint8. ``out`` keeps ``verdicts.jsonl``, from which an interrupted
    evaluation goes on; it may hold more prompts and seeds than are asked for now. Raises InputError when it
    belongs to other prompts.
    """
    prompts = held_out_prompts() if prompts is None else prompts
    out.mkdir(parents=True, exist_ok=True)
    file = out / "verdicts.jsonl"
    asked = {(prompt.id, seed): prompt for prompt in prompts for seed in seeds}
    records = {(record["id"], record["seed"]): record for record in _read(file)}
    _same_prompts(file, records.values(), prompts)
    with file.open("a", encoding="utf-8") as lines:
        for done, ((name, seed), prompt) in enumerate(asked.items(), 1):
            if (name, seed) not in records:
                verdict = judge(make(prompt.prompt, seed), prompt.checks).to_dict()
                record = {
                    "id": name,
                    "seed": seed,
                    "tier": prompt.tier,
                    "prompt": prompt.prompt,
                    "verdict": verdict,
                }
                records[name, seed] = record
                lines.write(json.dumps(record) + "\n")
                lines.flush()
            if on_item is not None:
                on_item(done, len(asked))
    return WorldReport([records[key] for key in asked])


def _same_prompts(file: Path, records: Iterable[dict[str, Any]], prompts: Sequence[Prompt]) -> None:
    """More or fewer prompts than before are fine; others, or other words under the same name, are not."""
    told = {prompt.id: prompt.prompt for prompt in prompts}
    judged = {record["id"]: record["prompt"] for record in records}
    other = [name for name in judged if name in told and told[name] != judged[name]]
    if not other and not (judged.keys() <= told.keys() or told.keys() <= judged.keys()):
        other = [name for name in judged if name not in told]
    if other:
        raise InputError(
            f"{file}: holds verdicts of other prompts ({other[0]!r}); choose another --out or remove it"
        )


def _read(file: Path) -> list[dict[str, Any]]:
    """Finished verdicts; a last line cut off by a crash is dropped and made again.

    Raises InputError when anything else stands there: it is not ours, and stays as it is.
    """
    if not file.exists():
        return []
    text = read_small_text(file, most=256 << 20)
    lines = lines_of(text)
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line, str(file), nan_is_none=True)
        except ConfigError:
            if records and number == len(lines) and not text.endswith("\n"):
                write_text(file, "".join(whole + "\n" for whole in lines[:-1]))
                break
            record = None
        if not isinstance(record, dict) or not {"id", "seed", "tier", "prompt", "verdict"} <= record.keys():
            raise InputError(
                f"{file} line {number}: is no verdict, so the file is left; choose another --out"
            )
        records.append(record)
    return records
