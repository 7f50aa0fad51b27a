"""Harmonix-F (`harmonix_f`): the fMRI encoder of BrainHarmony, for scans of any repetition time."""
