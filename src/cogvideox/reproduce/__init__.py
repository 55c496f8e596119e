"""The paper's experiments, run again: in miniature on a laptop, or from a finished evaluation of real weights.

experiments.py  the table: one row for each figure and table, as a value; loads no torch
arms.py         what an arm trains: one miniature transformer, one change
run.py          train every arm with every seed, measure, compare, write
videos.py       what an arm's videos are worth: FVD and facts
verdict.py      differences over seeds and what they say about the paper's claim
readings.py     tables that are read from benchmarks, evaluations, studies and reports
curves.py       curves with bands, as SVG
pages.py        results into docs/records/reproduce.md, statuses into docs/paper.md
"""
