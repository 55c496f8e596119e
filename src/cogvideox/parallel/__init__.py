"""Several processes for one model: applied from outside to a finished model, equal to one process.

Files, in reading order:

| file | what it does |
|---|---|
| `mesh` | the process group, and `MeshConfig`: data x shard x context ranks |
| `exchange` | collectives with exact gradients |
| `data_parallel` | `DataParallel`: the ranks of a training run and how gradients are reduced |
| `shard` | activation checkpointing, compilation and FSDP2 for a model's blocks; which rows a process saves and reads |
| `sequence` | sequence parallelism of the transformer (Ulysses or ring) |
| `ring` | ring attention |
| `context` | the autoencoder over slices of time |
| `inference` | one video by several processes |
"""
