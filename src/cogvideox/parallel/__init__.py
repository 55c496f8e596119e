"""Many processes, one model: applied from outside, equal to one process."""
