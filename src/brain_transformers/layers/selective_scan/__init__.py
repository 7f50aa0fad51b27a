"""Selective scan (the recurrence of Mamba): definition, plain torch, Triton, `mamba_ssm`'s kernel, and the choice."""

from .dispatch import SCANS, chosen_scan, selective_scan
from .reference import selective_scan_reference

__all__ = ["SCANS", "chosen_scan", "selective_scan", "selective_scan_reference"]
