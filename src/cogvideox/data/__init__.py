"""The clips that a training run reads: from a folder or the tiny world, cut to size, encoded once, packed into rows.

| file | what it does |
|---|---|
| ``clips`` | ``FolderClips`` and ``WorldClips``: pixels, captions and digests of clips by number |
| ``masks`` | masks drawn at random over a clip, for models that inpaint |
| ``conditions`` | condition videos made from clips: with a hole, or reduced to edges and paths |
| ``cache`` | named tensors by key in a folder of safetensors files |
| ``latents`` | latents and text embeddings, encoded once and kept |
| ``encode_elsewhere`` | the same by several processes, or actors on a Ray cluster |
| ``pack`` | which clips stand in which row: of one token budget (frame pack, section 2.4), or of one shape (buckets) |
| ``doctor`` | what training would do with a folder, clip by clip |
"""
