"""Judges of anyone's videos; nothing here knows a model of ours."""
