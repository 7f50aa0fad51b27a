"""From trained models to numbers: embeddings, reconstruction against baselines, identification, probes."""

from ..processing.connectivity import functional_connectivity
from .crops import crop_features, predict_crops
from .embedding import embed_dataset, embedding_columns
from .identification import IdentificationResult, identify
from .linear_probe import linear_probe_protocol, train_probe_heads
from .probing import ProbeResult, probe
from .reconstruction import (
    BASELINES,
    ReconstructionReport,
    ReconstructionStatistics,
    compare_reconstructions,
    reconstruction_baselines,
    reconstruction_scores,
    roi_correlations,
)
from .splits import ProtocolResult

__all__ = [
    "BASELINES",
    "IdentificationResult",
    "ProbeResult",
    "ProtocolResult",
    "ReconstructionReport",
    "ReconstructionStatistics",
    "compare_reconstructions",
    "crop_features",
    "embed_dataset",
    "embedding_columns",
    "functional_connectivity",
    "identify",
    "linear_probe_protocol",
    "predict_crops",
    "probe",
    "reconstruction_baselines",
    "reconstruction_scores",
    "roi_correlations",
    "train_probe_heads",
]
