"""Corpora: the names of their files, what they should hold, their licences."""
