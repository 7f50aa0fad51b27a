"""Self-distillation: a student learns from a teacher that is its own moving average."""
