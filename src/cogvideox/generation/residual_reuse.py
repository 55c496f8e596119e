"""Which steps of a run may reuse the residual of an earlier one: measured once per model and number of steps, or by
rules that need no measuring.

A calibration is a small JSON file. A threshold turns it into a choice of steps; 0 chooses none. TeaCache's polynomials
are published for the released models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from cogvideox.config import Config
from cogvideox.errors import ConfigError
from cogvideox.files import read_json
from cogvideox.transformer import TransformerConfig

REACH = 4
"""How many steps old a residual may be."""

TEA_2B = (-31.0658903, 25.4732368, -5.92380459, 1.75769064, -0.00361568434)
TEA_5B = (-1538.80483, 843.202495, -134.363087, 7.97131516, -0.0523162339)
TEA_15 = (250.210439, -165.061612, 35.7804877, -0.781551492, 0.0358559703)
TEA_15_I2V = (122.842302, -104.088754, 26.2981677, -0.306009921, 0.0371213220)
PLAIN_DISTANCE = (1.0, 0.0)
"""TeaCache's rule before its polynomial: the distance itself; for models that none is published for."""


def tea_polynomial(config: TransformerConfig) -> tuple[str, tuple[float, ...]]:
    """The published polynomial of a network of this shape and whose it is; "none" with the plain distance otherwise."""
    shape = config.num_layers, config.width, config.patch_size_t, bool(config.ofs_embed_dim)
    known = {
        (30, 1920, None, False): ("2b", TEA_2B),
        (42, 3072, None, False): ("5b", TEA_5B),
        (42, 3072, 2, False): ("1.5-5b", TEA_15),
        (42, 3072, 2, True): ("1.5-5b-i2v", TEA_15_I2V),
    }
    return known.get(shape, ("none", PLAIN_DISTANCE))


class Calibration(Config):
    """What runs of one model with these times have shown; see transformer/reuse.py for factors and errors."""

    model: str = Field(description="name of the model")
    times: tuple[int, ...] = Field(min_length=1, description="the times of the steps, first to last")
    factors: tuple[tuple[float, ...], ...] = Field(
        description="step i from step i - 1, i - 2, ...: the factor"
    )
    errors: tuple[tuple[float, ...], ...] = Field(description="what is then wrong, relative")
    sampler: str = Field("ddim", description="sampler of the runs")
    guidance: float = Field(6.0, description="guidance of the runs")
    size: tuple[int, int, int] = Field((0, 0, 0), description="frames made, height, width of the runs")
    runs: int = Field(1, ge=1, description="how many runs the numbers are averaged over")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("factors", "errors"):
            rows = getattr(self, name)
            if len(rows) != len(self.times) or any(len(row) > i for i, row in enumerate(rows)):
                raise ValueError(f"{name}: {len(rows)} rows do not belong to {len(self.times)} times")
        if [len(row) for row in self.factors] != [len(row) for row in self.errors]:
            raise ValueError("factors and errors: rows of different lengths")
        return self

    def choose(self, times: Sequence[int], threshold: float) -> list[float | None]:
        """For every step the factor of the residual computed last, or None where the blocks are computed.

        A residual is reused while its error stays below ``threshold`` times itself. ``times`` may be the end of
        the calibrated ones (a video that is changed). Raises ConfigError for other times.
        """
        first = self.times.index(times[0]) if times and times[0] in self.times else 0
        if list(self.times[first:]) != list(times):
            raise ConfigError(
                f"reuse: calibrated for {len(self.times)} steps from {self.times[0]}, the run has {len(times)} "
                f"from {times[0] if times else 'nowhere'}; calibrate again with the steps of the run"
            )
        chosen: list[float | None] = [None]
        age = 0
        for step in range(first + 1, len(self.times)):
            age += 1
            errors = self.errors[step]
            if age <= len(errors) and errors[age - 1] < threshold:
                chosen.append(self.factors[step][age - 1])
            else:
                chosen.append(None)
                age = 0
        return chosen

    @classmethod
    def average(cls, runs: Sequence[Calibration]) -> Calibration:
        """The mean of several runs with the same times."""

        def mean(tables: Sequence[tuple[tuple[float, ...], ...]]) -> tuple[tuple[float, ...], ...]:
            steps = zip(*tables, strict=True)
            return tuple(tuple(sum(v) / len(v) for v in zip(*step, strict=True)) for step in steps)

        factors, errors = mean([run.factors for run in runs]), mean([run.errors for run in runs])
        return runs[0].changed(factors=factors, errors=errors, runs=len(runs))

    def to_json(self) -> str:
        """One row of numbers per line, rounded to what is known."""
        values = self.model_dump(mode="json")
        for name in ("factors", "errors"):
            values[name] = [[round(value, 5) for value in row] for row in values[name]]
        lines = [f'  "{name}": {json.dumps(value)}' for name, value in values.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"


def read_calibration(path: str | Path) -> Calibration:
    """Raises ConfigError for a file that is none."""
    try:
        values = read_json(path)
    except ConfigError as error:
        raise ConfigError(
            f"{str(path)!r}: no calibration of reuse ({error}); make one with cogvideox calibrate"
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: no calibration of reuse; make one with cogvideox calibrate")
    return Calibration.parse(values, str(path))


def calibration_path(folder: str | Path, steps: int) -> Path:
    """Where the calibration of a model folder for so many steps is looked for."""
    return Path(folder) / f"reuse-{steps}.json"
