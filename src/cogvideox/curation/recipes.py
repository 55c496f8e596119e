"""Whole pipelines, each a function that returns a recipe."""

from __future__ import annotations

from collections.abc import Callable

from cogvideox.curation.borders import Borders
from cogvideox.curation.duplicates import ExactCopies, LookAlikes, NearCopies
from cogvideox.curation.hashes import EmbeddingStep, Hashes
from cogvideox.curation.patterns import Patterns
from cogvideox.curation.recipe import Cutting, Gate, Recipe
from cogvideox.curation.scores import (
    AestheticScore,
    Flicker,
    Light,
    MotionScore,
    Sharpness,
    TextArea,
    Watermark,
)
from cogvideox.curation.shots import Shots
from cogvideox.curation.thresholds import ThresholdRule, Thresholds, ThresholdStage
from cogvideox.errors import ConfigError, suggest

STEPS = (
    Borders(),
    Light(),
    Sharpness(),
    Flicker(),
    MotionScore(),
    TextArea(),
    Watermark(),
    AestheticScore(),
    Hashes(),
    EmbeddingStep(),
    Patterns(),
)


def default() -> Recipe:
    """Real footage, one tolerant stage: drops what is broken, frozen, copied, hardly visible, test bars or a title."""
    rules = (
        ThresholdRule(score="luma", least=16, most=240),
        ThresholdRule(score="contrast", least=8),
        ThresholdRule(score="frozen", most=0.9),
        ThresholdRule(score="motion_top", least=0.01, most=6.0),
        ThresholdRule(score="flicker", most=12),
        ThresholdRule(score="bars", most=0.15),
        ThresholdRule(score="plain", most=0.85),
        ThresholdRule(score="aesthetic", least=4.5),  # only where a head was given; the paper's lowest value
    )
    return Recipe(name="default", steps=STEPS, choices=_choices((ThresholdStage(name="all", rules=rules),)))


def staged() -> Recipe:
    """The paper's plan: thresholds rise from stage to stage, the last takes the best 20 %. Needs some hundred clips."""

    def stage(name: str, low: float, aesthetic: float, best: float) -> ThresholdStage:
        return ThresholdStage(
            name=name,
            rules=(
                ThresholdRule(score="luma", least=16, most=240),
                ThresholdRule(score="frozen", most=0.9),
                ThresholdRule(score="motion_top", least=0.01, drop_lowest=low, drop_highest=0.01),
                ThresholdRule(score="aesthetic", least=aesthetic),
                ThresholdRule(score="aesthetic_proxy", drop_lowest=best),
                ThresholdRule(score="overlay", most=0.0 if name == "finetune" else None),
            ),
        )

    stages = (
        stage("256", 0.05, 4.5, 0.0),
        stage("480", 0.10, 4.7, 0.1),
        stage("768", 0.15, 5.0, 0.3),
        stage("finetune", 0.20, 5.0, 0.8),
    )
    return Recipe(name="staged", steps=STEPS, choices=_choices(stages))


def tiny() -> Recipe:
    """Clips of the tiny world and other small ones: no least size or length. Seconds."""
    rules = (ThresholdRule(score="frozen", most=0.95),)
    return Recipe(
        name="tiny",
        gate=Gate(short_side=16, fps=1),
        shots=Shots(min_seconds=0.5),
        steps=STEPS,
        choices=_choices((ThresholdStage(name="all", rules=rules),)),
    )


def cuts() -> Recipe:
    """Only find the takes and cut them out: nothing is judged."""
    rules = ThresholdStage(name="all", rules=())
    return Recipe(
        name="cuts", steps=(), choices=(Thresholds(stages=(rules,)),), cutting=Cutting(copy_whole=True)
    )


def _choices(stages: tuple[ThresholdStage, ...]) -> tuple:
    return (ExactCopies(), Thresholds(stages=stages), NearCopies(), LookAlikes())


RECIPES: dict[str, Callable[[], Recipe]] = {"default": default, "staged": staged, "tiny": tiny, "cuts": cuts}


def recipe(name: str) -> Recipe:
    """The recipe called ``name``; ConfigError with a suggestion when there is none."""
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r}: unknown{suggest(name, RECIPES)}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()


def find_recipe(name: str) -> Recipe:
    """The recipe of a file that ends in .yaml, or the one called ``name``. Raises ConfigError."""
    return Recipe.from_yaml(name) if name.endswith((".yaml", ".yml")) else recipe(name)
