"""Fixtures that every test can ask for by name."""

from support.fixtures import cluster, here, toy

__all__ = ["cluster", "here", "toy"]
