"""The command line: verbs, flags and text on a terminal; the work is done by the packages below.

| file | what it does |
|---|---|
| ``app`` | the command; verbs that are one call: convert, inspect, train, world |
| ``generate`` | one video or a batch, from flags made of ``GenerateOptions`` |
| ``plan``, ``plan_train`` | what fits, as a table: a generation, a training |
| ``calibrate`` | measure the reuse of steps |
| ``caption``, ``curate``, ``data`` | videos to clips and captions |
| ``settings`` | every setting of a training recipe: path, value, type, meaning |
| ``dry_run`` | what ``train --dry-run`` prints |
| ``evaluate``, ``samples`` | scores of a folder of videos, or of a model |
| ``rate``, ``reproduce``, ``world`` | the rating page, the paper's experiments, the tiny world |
| ``flags`` | flags from the fields of a settings class |
| ``usage`` | a command line that is not understood is one line; help under headings |
| ``terminal`` | results on stdout, errors and warnings on stderr, exit codes |
"""

from cogvideox.cli.app import app, main

__all__ = ["app", "main"]
