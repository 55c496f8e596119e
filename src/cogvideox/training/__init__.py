"""Work that lasts: tasks, the loop, recipes."""
