"""What can be trained: the transformer, the autoencoder, and the small networks around them."""
