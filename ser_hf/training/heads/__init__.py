"""Heads on frozen layers, whose outputs are computed once: fitted in closed form, or trained."""
