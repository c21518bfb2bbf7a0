"""Weights of every kind."""
