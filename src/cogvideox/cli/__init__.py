"""The command line: verbs, flags and text on a terminal; the work is done by the packages below.

| file | what it does |
|---|---|
| ``app`` | the command; verbs that are one call: convert, inspect |
| ``generate`` | one video or a batch, from flags made of ``GenerateOptions`` |
| ``plan`` | what fits, as a table |
| ``train``, ``training`` | train and settings; what they and ``plan --train`` print about a run |
| ``curate``, ``caption`` | videos to clips and captions; ``data``: what a folder of clips holds |
| ``evaluate`` | scores of a folder of videos, or of a model |
| ``reproduce``, ``calibrate`` | the paper's experiments; the reuse of steps, measured |
| ``rate``, ``world`` | the rating page, the tiny world |
| ``flags`` | flags from the fields of a settings class |
| ``terminal`` | results on stdout, errors and warnings on stderr, exit codes; help under headings |
"""

from cogvideox.cli.app import app, main

__all__ = ["app", "main"]
