"""Backbones: loading, padding, features, frozen front ends."""
