"""Training: one loop for all tasks. ``loop.train(config)`` runs, saves, resumes and writes the result.

| file | what it does |
|---|---|
| ``config`` | ``TrainConfig``: one run as one value; ``Run``: a run of a task of this package |
| ``loop`` | ``train``: checks, builds, trains to the end, writes the result; rerun to resume |
| ``trainer`` | one run in memory: steps with gradient accumulation; when to measure, report, save and stop (SIGTERM) |
| ``task`` | ``Task`` and ``TaskConfig``: base classes of what one step is |
| ``optim`` | optimisers, the learning-rate curve, exponential moving average of the weights (EMA) |
| ``evaluator`` | held-out figures, sample videos and the result, all with the averaged weights |
| ``metrics`` | metrics.jsonl, progress bar, TensorBoard, Weights & Biases, tokens and FLOPs a second |
| ``step_guard`` | steps that must not move the weights: losses or gradients that are not finite, spikes |
| ``resume`` | settings that a resumed run must share with the run in its folder |
| ``checkpoint/`` | training states on disk |
| ``stages`` | progressive training: several runs, each from the result of the one before |
| ``memory`` | FLOPs of a step, counted; memory that a fine-tuning needs, predicted |
| ``preview`` | what a run will read, hold and take, before it runs |
| ``tasks/`` | what is trained: transformer, VAE, text encoder, captioner, ... |
| ``recipes/`` | whole runs, ready to start |
"""
