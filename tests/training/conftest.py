"""Puts this folder on the path, for the small models and runs that the tests of all objectives share."""
