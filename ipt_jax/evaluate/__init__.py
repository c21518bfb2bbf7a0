"""Scores of weights on benchmark sets: tables, JSON, a page."""
