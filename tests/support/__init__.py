"""What several tests use: small models, made videos, servers, processes that are killed."""
