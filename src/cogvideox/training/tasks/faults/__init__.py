"""Faults made on purpose: labelled examples of the six negative labels, from clean clips and from drawing.

| file | what |
|---|---|
| `take_library` | clean clips to start from: single takes of a folder of videos, and drawn textures |
| `drawing` | what effects are made with: painting on frames, scaling, moving; drawn writing, windows, slides, people |
| `edits` | effects that change a clip: editing, stills, bad quality, and innocent changes |
| `scenes` | effects that draw: people who talk, writing, screens |
| `samples` | which effect gives which label; sample n: which faults, on which clip; a function of (seed, n) alone |
"""
