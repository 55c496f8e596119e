"""The same prompt and noise under three samplers, in one picture."""

import sys

import cogvideox
from cogvideox.video import contact_sheet

out = sys.argv[1] if len(sys.argv) > 1 else "samplers.png"
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 20

model = cogvideox.load("tiny-base")
names = ["ddim", "dpmpp_2m", "dpmpp_sde"]
videos = [
    cogvideox.generate(model, "a blue square grows", seed=3, steps=steps, sampler=name) for name in names
]

contact_sheet(videos, names).save(out)
print(out)
