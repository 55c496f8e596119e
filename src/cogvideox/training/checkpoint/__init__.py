"""Training states on disk: written whole, hashed, read without unpickling anything."""
