"""Faults made on purpose: labelled examples of the six negative labels, from clean clips and from drawing.

stock.py     clean clips to start from: films of a folder, and textures that are drawn
drawing.py   pictures of writing, windows, slides and people who talk
effects.py   one function per way to have a fault, and per way to only look as if
samples.py   sample n: which faults, on which clip; a function of (seed, n) alone
"""
