"""Faults made on purpose: labelled examples of the six negative labels, from clean clips and from drawing.

| file | what |
|---|---|
| `take_library` | clean clips to start from: single takes of a folder of videos, and drawn textures |
| `drawing` | pictures of writing, windows, slides and people who talk |
| `painting` | what effects share: painting on every frame, scaling, moving, coding again |
| `edits` | effects that change a clip: editing, stills, bad quality, and innocent changes |
| `scenes` | effects that draw: people who talk, writing, screens |
| `effects` | which effect gives which label, and which gives none |
| `samples` | sample n: which faults, on which clip; a function of (seed, n) alone |
"""
