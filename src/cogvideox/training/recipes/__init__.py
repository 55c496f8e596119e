"""Recipes: whole runs, each a function that returns a complete config. Times were measured on 2 CPU cores.

| file | what |
|---|---|
| `table` | all recipes by name; a run from a YAML file |
| `settings` | every setting of a run, with type, value and meaning (`cogvideox settings RECIPE`) |
| `finetune` | a model on clips of yours: `finetune`, `lora`, `videos-lora`, `inpaint`, `keyframes`, `control` |
| `shipped` | the runs whose results ship inside the package (`tiny`, `distil-tiny`, `world-*`, `labels`) |
| `rich_world` | `small`: the richer world, 128x128, on one GPU; `small-t2v`: its transformer alone |
| `paper` | `paper-2b`, `paper-5b`: Tables 5 and 6; `world-stages`: the same in miniature; `table1-*`: Table 1 |
"""

from cogvideox.training.config import Run
from cogvideox.training.recipes.table import RECIPES, recipe, run, run_file

__all__ = ["RECIPES", "Run", "recipe", "run", "run_file"]
