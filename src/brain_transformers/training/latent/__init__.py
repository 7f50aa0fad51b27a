"""Latent prediction against a target network that follows as a moving average."""
