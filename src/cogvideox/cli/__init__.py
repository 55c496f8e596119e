"""The verbs of the command line; each does one call into the rooms below, and loads them when it runs.

app.py        the command, and the verbs with few words: convert, inspect, train, evaluate, world
generate.py   generate: flags to options, one video or a batch
caption.py    caption: a folder of videos gets descriptions
enhance.py    the flags of prompts that are written out
checks.py     everything that can be refused before weights are loaded
curate.py     raw videos to training data
batch.py      many prompts from a file, resumable; batch_file.py reads it
job.py        what every verb that generates goes through: check, estimate, fit, load, make, save
clock.py      time taken and left, as people read it
usage.py      a command line that is not understood is one line
terminal.py   results on stdout, progress and errors on stderr, exit codes
"""

from cogvideox.cli.app import app, main

__all__ = ["app", "main"]
