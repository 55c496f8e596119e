"""The videos of a model for a suite, and the scores of them or of anyone's folder: ``cogvideox.evaluate``.

| file | what it does |
|---|---|
| ``options`` | ``EvaluateOptions``: everything that decides an evaluation; loads no torch |
| ``videos`` | a model's videos for a suite: generated, resumed, or reconstructed by its autoencoder |
| ``run`` | ``evaluate``: videos, metrics, comparison, report |
"""
