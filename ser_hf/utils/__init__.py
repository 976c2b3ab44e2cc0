"""What every stage uses and no stage is about."""
