"""A prompt becomes a video: python examples/text_to_video.py "a green ring moves up" """

import sys

import cogvideox

prompt = sys.argv[1] if len(sys.argv) > 1 else "a red circle moves to the right"
out = sys.argv[2] if len(sys.argv) > 2 else "text.mp4"

model = cogvideox.load("tiny")
video = cogvideox.generate(model, prompt, seed=7)
print(video.save(out, overwrite=True))
