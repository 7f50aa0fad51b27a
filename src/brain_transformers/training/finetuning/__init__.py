"""Fine-tuning on labels, of any family."""
