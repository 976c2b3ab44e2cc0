"""Recordings on disk to one labelled dataset."""
