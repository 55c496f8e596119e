"""Curation: raw films become clips with scores, and every clip that is missing can be explained.

recipe.py      Recipe: steps, choices, cutting, limits; recipes.py has whole ones
pipeline.py    measure every film, choose among all clips, cut out what is kept; resumes after any kill
engines.py     who does the jobs: processes here, or Ray Data on a cluster; work.py is what a worker does
measuring.py   one film to clips: film.py decodes it once, shots.py finds takes, view.py is what steps see
step.py        Step; borders.py, scores.py, prints.py, labels.py are the steps
table.py       Table; duplicates.py and thresholds.py are the choices
cutting.py     clips to files; strips.py to pictures for people
"""
