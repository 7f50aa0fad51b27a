"""Sharing and finding models: named checkpoints, model cards, complete folders, pushing to the Hub."""
