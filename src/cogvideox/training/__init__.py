"""Training: one loop for all tasks. ``loop.train(config)`` runs, saves, resumes and writes the result.

| file | what it does |
|---|---|
| ``config`` | ``TrainConfig``: the settings of a run; ``Run``: the same, with a task of this package |
| ``encode`` | latents and text embeddings of a run, made before it trains: here, or by several workers |
| ``loop`` | ``train``: checks settings, builds, trains to the end, writes the result; call again to resume |
| ``trainer`` | ``Trainer``: steps with gradient accumulation; measures, logs, saves and stops (SIGTERM) |
| ``task`` | ``Task`` and ``TaskConfig``: base classes of a training objective and its settings |
| ``optim`` | optimisers, the learning-rate curve, exponential moving average of the weights (EMA) |
| ``evaluator`` | held-out figures, sample videos and the result, all with the EMA weights |
| ``metrics`` | metrics.jsonl, progress bar, TensorBoard, Weights & Biases, tokens and FLOPs a second |
| ``step_guard`` | skips steps whose loss or gradient is not finite or an outlier |
| ``resume`` | settings that a resumed run must share with the run in its folder |
| ``checkpoint/`` | training states on disk |
| ``sequence`` | several runs in order, and chains of runs that read results of earlier ones |
| ``stages`` | progressive training: stages of one run, each from the result of the one before |
| ``memory`` | FLOPs of a step, counted; memory that a fine-tuning needs, predicted |
| ``preview`` | ``--dry-run``: the clips a run will read, its memory and time |
| ``tasks/`` | the tasks: transformer, VAE, text encoder, captioner, ... |
| ``recipes/`` | complete runs by name |
"""
