"""Leaderboards: many runs under one protocol, ranked, each tested against the best."""
