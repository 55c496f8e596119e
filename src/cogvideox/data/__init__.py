"""The clips that a training run reads: from a folder or the tiny world, cut to size, encoded once, packed into rows.

| file | what it does |
|---|---|
| ``clips`` | ``FolderClips`` and ``WorldClips``: pixels, captions and digests of clips by number |
| ``world`` | batches of the tiny world as tensors |
| ``cache`` | named tensors by key in a folder of safetensors files |
| ``latents`` | latents and text embeddings, encoded once and kept |
| ``pack`` | rows of one token budget: clips of any shape (frame pack, section 2.4), or of one shape (buckets) |
| ``stream`` | which clips stand in which row of a run |
| ``doctor`` | what training would do with a folder, clip by clip |
"""
