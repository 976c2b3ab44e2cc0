"""Self-supervised pretraining with wav2vec 2.0's objective."""
