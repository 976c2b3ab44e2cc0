"""Training on recordings that stay in their files: their order, and how they are read in it."""
