"""``settings``: every setting of a recipe with its type, its value there and its meaning."""

from __future__ import annotations

import json
import textwrap

from cogvideox.cli.terminal import result, result_json
from cogvideox.training.recipes import recipe, run_file
from cogvideox.training.recipes.settings import recipe_summaries, settings_table


def show_settings(name: str | None, find: str | None, as_json: bool) -> None:
    """Print the settings of a recipe or a run.yaml whose path or meaning holds ``find``; without a name the recipes."""
    if name is None:
        summaries = recipe_summaries()
        if as_json:
            result_json(summaries)
            return
        width = max(map(len, summaries))
        for one, summary in summaries.items():
            result(f"{one:{width}}  {summary}")
        return
    config = run_file(name) if name.endswith((".yaml", ".yml")) else recipe(name)
    rows = settings_table(config)
    if find:
        rows = [row for row in rows if find.lower() in f"{row.path} {row.meaning}".lower()]
    if as_json:
        result_json([row._asdict() for row in rows])
        return
    for row in rows:
        result(f"{row.path}={json.dumps(row.value, ensure_ascii=False)}  ({row.type})")
        result(textwrap.fill(row.meaning, 100, initial_indent="    ", subsequent_indent="    "))
