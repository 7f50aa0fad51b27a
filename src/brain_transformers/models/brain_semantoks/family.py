"""Brain-Semantoks."""

from ..family import AuthorsFile, Family, NamedModel

FAMILY = Family(
    folder="brain_semantoks",
    stem="BrainSemantoks",
    title="Brain-Semantoks",
    model_type="brain_semantoks",
    objective="self-distillation",
    converter="brain_semantoks",
    processor_defaults={
        # Networks without data become masked tokens.
        "normalization": "zscore",
        "missing_rois": "mask",
    },
    fine_tuning_head={"classifier_head": "batch_norm_linear", "classifier_loss": "mae"},
    models={
        "brain-semantoks-base": NamedModel(
            parameters=58_720_931,
            trained_parameters=58_720_931 + 918_656,
            source="SamGijsen/Brain-Semantoks, file brainsemantoks_ckpt_epoch_100.pth",
            files=(
                AuthorsFile("checkpoint", "brainsemantoks_ckpt_epoch_100.pth", repository="SamGijsen/Brain-Semantoks"),
                AuthorsFile("network_map", "network_mapping.npz", repository="SamGijsen/Brain-Semantoks"),
            ),
            license="unknown",
            citation=(
                "Gijsen, Schulz, Ritter, Brain-Semantoks: Learning Semantic Tokens of Brain Dynamics with a "
                "Self-Distilled Foundation Model, ICLR 2026 (arXiv 2512.11582)"
            ),
            trained_on=(
                "39,139 resting scans of UK Biobank, at a TR of 2.0 s, band-passed (0.01 to 0.1 Hz) and z-scored "
                "per parcel."
            ),
            datasets=("uk-biobank",),
            claims=(
                "by a linear probe, balanced accuracies of 87.5 % (sex, UK Biobank), 65.1 % (autism, ABIDE), 69.3 % "
                "(schizophrenia, SRPBS) and 62.6 % (depression, SRPBS), and 52.7 % as the mean of 12 tasks, as "
                "secondary sources quote the paper"
            ),
            limits=(
                "The licence of the weights is not stated: ask the authors before you share converted or fine-tuned "
                "weights.",
                "Trained on resting scans of UK Biobank at TR 2.0 s, z-scored per parcel; other repetition times are "
                "resampled first.",
                "Parcels are Schaefer-400 in the 7-network order, then Tian S3, then Buckner-7. Without subcortex or "
                "cerebellum their tokens are masked, which was part of training but costs accuracy.",
                "Windows shorter than 100 timepoints are masked at the end.",
            ),
        ),
        "brain-semantoks-tiny": NamedModel(
            {
                "n_rois": 20,
                "n_timepoints": 40,
                "patch_size": 10,
                "networks": [0, 0, 1, 1, 2, 2, 2, 0, 0, 0, 1, 0, 2, 2, 3, 3, 3, 3, 4, 4],
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 48,
                "tokenizer_branches": [
                    {"type": "convolution", "out_channels": 16},
                    {"type": "long_convolution", "out_channels": 16, "num_scales": 2},
                ],
                "projection_hidden_size": 24,
                "projection_size": 12,
                "roi_order": None,
            },
        ),
    },
)
