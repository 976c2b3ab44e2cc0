"""Predictions for recordings of any length."""
