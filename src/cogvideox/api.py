"""What the command line does to folders and runs, as one Python call each: ``train``, ``encode``, ``curate``,
``caption``.

``load``, ``save``, ``convert`` and ``inspect`` are ``cogvideox.checkpoints``, ``generate`` and ``plan`` are
``cogvideox.generation``, ``evaluate`` is ``cogvideox.evaluate_model``. Settings are plain keywords; a dotted name
reaches into a group: ``**{"optim.lr": 1e-4}``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.engines import HERE, JobEngine
from cogvideox.errors import ConfigError
from cogvideox.progress import SILENT, Reporter

if TYPE_CHECKING:
    from cogvideox.captioning.describe import CaptionRecord
    from cogvideox.captioning.folder import CaptionSummary
    from cogvideox.captioning.strategy import CaptionConfig
    from cogvideox.curation.recipe import Recipe
    from cogvideox.training.config import Run
    from cogvideox.training.encode import EncodedData
    from cogvideox.training.sequence import RunSequence


def train(
    recipe: str | Path | Run | RunSequence,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> Path:
    """Train: ``train("world-t2v", out="runs/mine", steps=200)``; the same folder resumes. Returns the folder.

    recipe: the name of a recipe, a run.yaml, or a config. ``overrides`` are "key.path=value" texts, applied before
    ``settings``. Processes that torchrun started train one model together. Raises ConfigError, InputError,
    CheckpointError, OutputError or DependencyError.
    """
    from cogvideox.parallel.mesh import process_group
    from cogvideox.training.recipes import run
    from cogvideox.training.sequence import RunSequence

    config = training_config(recipe, out=out, overrides=overrides, **settings)
    first = config.named_runs()[0][1] if isinstance(config, RunSequence) else config
    with process_group(first.task.compute_device):
        return run(config)


def training_config(
    recipe: str | Path | Run | RunSequence,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> Run | RunSequence:
    """The complete settings that ``train`` would run with; the arguments are the same. Raises ConfigError."""
    from cogvideox.training.recipes import recipe as named
    from cogvideox.training.recipes import run_file
    from cogvideox.training.sequence import RunSequence

    if isinstance(recipe, str | Path):
        config = run_file(recipe) if str(recipe).endswith((".yaml", ".yml")) else named(str(recipe))
    else:
        config = recipe
    if out is not None:
        overrides = [*overrides, f"{config.out_setting if isinstance(config, RunSequence) else 'out'}={out}"]
    config = config.override(overrides) if overrides else config
    return config.changed(**settings) if settings else config


def encode(
    recipe: str | Path | Run | RunSequence,
    *,
    overrides: Sequence[str] = (),
    engine: JobEngine = HERE,
    **settings: Any,
) -> EncodedData:
    """Encode what a training run will read, before it: ``encode("finetune", engine=JobEngine("ray"), ...)``.

    The arguments are those of ``train``. Latents and text embeddings go into ``task.cache``, where ``train`` with the
    same settings finds them; the same call encodes what is missing. ``engine``: here, in several processes, or on a Ray
    cluster. Raises ConfigError, CheckpointError, MediaError, NumericsError, OutputError or DependencyError.
    """
    from cogvideox.training.encode import encode_data

    return encode_data(training_config(recipe, overrides=overrides, **settings), engine)


def curate(
    folder: str | Path,
    out: str | Path = "curated",
    *,
    recipe: str | Recipe = "default",
    engine: str = "local",
    workers: int | None = None,
    overrides: Sequence[str] = (),
    reporter: Reporter = SILENT,
    **settings: Any,
) -> dict[str, Any]:
    """Turn raw videos into training clips; the same folders do only what is left. Returns the summary.

    recipe: default, staged, tiny, cuts, the path of a recipe.yaml, or a Recipe. engine: "local" (``workers``
    processes, by default one per core) or "ray". ``overrides`` are "key.path=value" texts. Raises InputError,
    ConfigError, CheckpointError or OutputError.
    """
    JobEngine(engine, workers)  # refuses what there is not
    from cogvideox.curation.engines import LocalEngine, RayEngine
    from cogvideox.curation.run import curate as run

    with reporter.progress("curating") as report:
        workplace = LocalEngine(workers) if engine == "local" else RayEngine(workers)
        return run(folder, out, curation_recipe(recipe, overrides, **settings), workplace, report)


def curation_recipe(recipe: str | Recipe, overrides: Sequence[str] = (), **settings: Any) -> Recipe:
    """The complete recipe that ``curate`` would use. Raises ConfigError."""
    from cogvideox.curation.recipe import find_recipe

    config = find_recipe(recipe) if isinstance(recipe, str) else recipe
    config = config.override(overrides) if overrides else config
    return config.changed(**settings) if settings else config


def caption(
    videos: str | Path,
    out: str | Path | None = None,
    *,
    config: CaptionConfig | None = None,
    on_record: Callable[[CaptionRecord], None] | None = None,
    engine: JobEngine = HERE,
    reporter: Reporter = SILENT,
    **settings: Any,
) -> CaptionSummary:
    """Describe a folder of videos: ``caption("videos", "captions", ask="http://127.0.0.1:8000/v1")``.

    ``out`` becomes a folder that training reads (default "captions"); the clips of a curated folder are described
    in place, and ``out`` is left away. ``settings`` are fields of CaptionConfig. The same call asks only for what
    is missing. ``on_record`` is called with each record. ``engine``: where they are described, for a folder that
    curation did not make. Raises ConfigError, CheckpointError, MediaError or OutputError.
    """
    from cogvideox.captioning.folder import caption_folder, find_videos
    from cogvideox.captioning.strategy import CaptionConfig
    from cogvideox.curation.captions import caption_curated, to_caption

    config = (config or CaptionConfig()).changed(**settings)
    folder, curated = Path(videos), check_caption_folder(videos, out)
    total = to_caption(folder)[0] if curated else len(find_videos(folder))
    count = 0
    with reporter.progress("describing") as report:

        def after(record: CaptionRecord) -> None:
            nonlocal count
            count += 1
            if on_record is not None:
                on_record(record)
            report("describing", count, total)

        if not curated:
            return caption_folder(folder, Path(out or "captions"), config, after, engine)
        if engine != HERE:
            raise ConfigError(f"engine {engine.kind}: {folder} was curated, one process describes its clips")
        return caption_curated(folder, config, after, report)


def check_caption_folder(videos: str | Path, out: str | Path | None) -> bool:
    """Whether the captions of ``videos`` go into that folder itself, which curation made.

    Raises ConfigError where ``out`` is another folder then.
    """
    from cogvideox.curation.captions import is_curated

    folder, curated = Path(videos), is_curated(Path(videos))
    if curated and out is not None and not (Path(out).exists() and folder.samefile(out)):
        raise ConfigError(f"out {out}: captions of a curated folder are written into it; leave out away")
    return curated
