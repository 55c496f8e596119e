"""Dense captions: five stages, from pictures to one description of the clip (Figure 7 and the caption appendix)."""
