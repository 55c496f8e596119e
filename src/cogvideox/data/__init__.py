"""Training data: from raw videos to shards (curated.py, shards.py, report.py), and from shards to tensors."""
