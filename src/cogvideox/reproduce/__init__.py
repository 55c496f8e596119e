"""The paper's experiments, run again: in miniature on a laptop, or from a finished evaluation of real weights.

| file | what it does |
|---|---|
| ``experiments`` | the table: every figure and table as a value; loads no torch |
| ``arms`` | what an arm (a variant of an ablation) trains: one miniature transformer, one change |
| ``run`` | train every arm with every seed, measure it and its videos, compare |
| ``significance`` | differences over seeds, and whether they support the paper's claim |
| ``external_results`` | tables from benchmarks, evaluations, studies and reports; nothing is trained |
| ``curves`` | curves with bands, as SVG |
| ``result_pages`` | results into docs/records/reproduce.md, statuses into docs/paper.md |
"""
