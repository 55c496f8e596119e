"""The command line: verbs, flags and text on a terminal; the work is done by the packages below.

| file | what it does |
|---|---|
| ``app`` | the command; verbs that are one call: convert, inspect |
| ``generate`` | one video or a batch, from flags made of ``GenerateOptions`` |
| ``preview`` | what a model will be shown of images, videos and masks |
| ``plan`` | which models and sizes fit into memory, and how long they take, as a table |
| ``train``, ``training`` | verbs train and settings; what they and ``plan --train`` print about a run |
| ``curate``, ``caption`` | verbs curate and caption; ``data``: inspect, report, check and label a folder of clips |
| ``evaluate`` | scores of a folder of videos, or of a model |
| ``reproduce``, ``calibrate`` | the paper's experiments; calibration of residual reuse |
| ``recommend`` | the settings that an adapter was made for, beside its file |
| ``serve`` | the job server, with the page of the studio or without; keys of its users |
| ``rate``, ``world`` | the rating page, the tiny world |
| ``flags`` | flags from the fields of a settings class |
| ``terminal`` | results on stdout, errors and warnings on stderr, exit codes; help under headings |
"""

from cogvideox.cli.app import app, main

__all__ = ["app", "main"]
