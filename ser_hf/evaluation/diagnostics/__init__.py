"""What lies behind the figures of a model: damaged clips, its embeddings, one clip by stretches."""
