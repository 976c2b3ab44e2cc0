"""The Hugging Face Hub: models, datasets and Spaces."""
