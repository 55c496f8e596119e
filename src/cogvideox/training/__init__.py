"""Training: tasks, the loop, recipes, checkpoints.

| file | what it does |
|---|---|
| ``config`` | one run as one value |
| ``task`` | what a task is, for any loop |
| ``loop`` | ``train``: moves weights, saves, resumes and reports |
| ``trainer`` | one run in memory |
| ``optim`` | optimisers, learning-rate curve, moving average of weights |
| ``metrics`` | progress, JSON lines, loggers |
| ``step_guard`` | steps that must not move the weights |
| ``claim`` | whose folder it is, and when to stop |
| ``init_from`` | what a run starts from |
| ``stages`` | progressive training |
| ``flops`` | what a step of the transformer costs |
| ``memory`` | what a fine-tuning needs before it begins |
| ``preview`` | a run before it runs |
| ``unused`` | settings that would change nothing |
| ``checkpoint/`` | states on disk |
| ``tasks/`` | what is trained |
| ``recipes/`` | whole runs |
"""
