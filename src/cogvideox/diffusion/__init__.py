"""Diffusion: a noise schedule, a denoiser contract, samplers and guidance. Knows no network."""

from cogvideox.diffusion.denoiser import Denoise, Network, clean_estimate, denoiser, guided, in_turn, pinned
from cogvideox.diffusion.guidance import GUIDANCE, Constant, Cosine, Guidance, Wave, is_guided
from cogvideox.diffusion.samplers import SAMPLERS, SamplerName, ddim, dpmpp_2m, dpmpp_sde
from cogvideox.diffusion.schedule import Previous, SamplerStep, Schedule, ScheduleConfig, Spacing
from cogvideox.diffusion.timesteps import explicit_uniform, interval, uniform

__all__ = [
    "GUIDANCE",
    "SAMPLERS",
    "Constant",
    "Cosine",
    "Denoise",
    "Guidance",
    "Network",
    "Previous",
    "SamplerName",
    "Schedule",
    "ScheduleConfig",
    "Spacing",
    "SamplerStep",
    "Wave",
    "clean_estimate",
    "ddim",
    "denoiser",
    "dpmpp_2m",
    "dpmpp_sde",
    "explicit_uniform",
    "guided",
    "in_turn",
    "interval",
    "is_guided",
    "pinned",
    "uniform",
]
