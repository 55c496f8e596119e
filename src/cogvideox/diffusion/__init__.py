"""Diffusion: a noise schedule, a denoiser contract, samplers and guidance. Knows no network, only a callable.

Files, in reading order:

| file | what it does |
|---|---|
| `schedule` | `Schedule`: the noise level of every timestep, and the steps of a sampler |
| `denoiser` | `Denoise`: noisy x at a step to the estimate of x0; plain, guided, or pinned to known frames |
| `samplers` | DDIM, DPM-Solver++ (2M) and its stochastic form |
| `combine` | the formulas that make one prediction of the answers of guidance |
| `guidance` | `Guider`: how strong guidance is at each step, and by which formula |
| `windows` | a long video in overlapping windows at every step |
| `timesteps` | the timesteps of training samples |
| `hops` | moves between noise levels for distillation, finite at zero SNR |
| `warped_noise` | noise that moves with a video |
"""

from cogvideox.diffusion.denoiser import (
    Denoise,
    Network,
    clean_estimate,
    denoiser,
    guided,
    pinned,
    sequential,
)
from cogvideox.diffusion.guidance import (
    GUIDANCE,
    Branch,
    ClassifierFree,
    Constant,
    Cosine,
    Guidance,
    Guider,
    Projected,
    Wave,
    ZeroStar,
    is_guided,
)
from cogvideox.diffusion.samplers import SAMPLERS, SamplerName, ddim, dpmpp_2m, dpmpp_sde
from cogvideox.diffusion.schedule import Previous, SamplerStep, Schedule, ScheduleConfig, Spacing
from cogvideox.diffusion.timesteps import explicit_uniform, interval, lean, uniform
from cogvideox.diffusion.windows import Windows

__all__ = [
    "GUIDANCE",
    "SAMPLERS",
    "Branch",
    "ClassifierFree",
    "Constant",
    "Cosine",
    "Denoise",
    "Guidance",
    "Guider",
    "Network",
    "Previous",
    "Projected",
    "SamplerName",
    "Schedule",
    "ScheduleConfig",
    "Spacing",
    "SamplerStep",
    "Wave",
    "Windows",
    "ZeroStar",
    "clean_estimate",
    "ddim",
    "denoiser",
    "dpmpp_2m",
    "dpmpp_sde",
    "explicit_uniform",
    "guided",
    "sequential",
    "interval",
    "lean",
    "is_guided",
    "pinned",
    "uniform",
]
