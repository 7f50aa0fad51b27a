"""Figures as matplotlib `Figure` objects (nothing is shown or left open), and a self-contained HTML report."""

from .check_page import plot_scan
from .embeddings import plot_embedding_map
from .identification import plot_identification
from .parcels import plot_parcel_map
from .report import HtmlReport, figure_to_png
from .signals import plot_carpet, plot_reconstruction, plot_reconstruction_scores
from .training_curve import plot_loss_curve

__all__ = [
    "HtmlReport",
    "figure_to_png",
    "plot_carpet",
    "plot_embedding_map",
    "plot_identification",
    "plot_loss_curve",
    "plot_parcel_map",
    "plot_reconstruction",
    "plot_reconstruction_scores",
    "plot_scan",
]
