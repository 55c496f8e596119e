"""Fixtures that every test can ask for by name."""

from support.fixtures import here, toy

__all__ = ["here", "toy"]
