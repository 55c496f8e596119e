"""Make what a held-out prompt asks for, and let the judge say which of its facts hold."""

import sys

import cogvideox
from cogvideox.world import check_facts
from cogvideox.world.held_out import held_out_prompts

number = int(sys.argv[1]) if len(sys.argv) > 1 else 0
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 50

prompt = held_out_prompts()[number]
model = cogvideox.load("tiny-base")
video = cogvideox.generate(model, cogvideox.GenerateOptions(prompt=prompt.prompt, seed=1, steps=steps))

print(prompt.prompt)
for finding in check_facts(video.frames, prompt.checks).findings:
    print("holds" if finding.holds else "fails", finding.check, "seen:", finding.seen)
