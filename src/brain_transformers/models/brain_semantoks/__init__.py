"""Brain-Semantoks: one token per functional network and window, trained by self-distillation (`brain_semantoks`)."""
