"""What the autoencoder keeps of a clip: the original and its reconstruction, side by side in one picture."""

import sys

import torch

import cogvideox
from cogvideox.video import contact_sheet
from cogvideox.world import render, sample_scene

out = sys.argv[1] if len(sys.argv) > 1 else "reconstruction.png"

vae = cogvideox.load("tiny").vae
clip = cogvideox.Video(render(sample_scene(seed=0, index=3, split="train")), fps=8)
with torch.inference_mode():
    back = vae.decode(vae.encode(clip.to_tensor()).mode())
again = cogvideox.Video.from_tensor(back, fps=8)

contact_sheet([clip, again], ["clip", "8 x 8 x 4 smaller, and back"]).save(out)
print(out)
