"""A judgement as metrics for MLflow, as rows and as text."""

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from adipocyte.domain import TIMEPOINT, has_times
from adipocyte.evaluation.cellprofiler.features import COLUMNS
from adipocyte.evaluation.judge import Judgement
from adipocyte.evaluation.measure import FieldMeasurement
from adipocyte.evaluation.metric import METRICS, Part, Score, mean_over
from adipocyte.evaluation.pixels import PIXEL_MEASUREMENTS

TRUTH = "truth"


def metrics(judgement: Judgement) -> dict[str, float]:
    """Every number of a judgement under a stable name, ready for MLflow.

    "mae_A2" over all magnifications and "mae_A2_20x", … for each; in the same way pixel_metric_A2,
    psnr_A2, ssim_A2 and pearson_A2 (means over fields, except pixel_metric). "pixel_metric",
    "feature_metric" and "combined_metric", "…_20x" too; "…_low" and "…_high" end their 95 %
    interval over fields, "…_wells_low" and "…_wells_high" over wells. "n_fields",
    "n_features_left_out". These are of the way that is kept; if there are several ways, each way's
    numbers stand behind its name too ("matching_mae_A2").
    """
    found = {}
    for way, one in judgement.scores.items():
        measured = _pixel_means(judgement.measurements, way) | _score_metrics(one)
        if len(judgement.scores) > 1:
            found |= {f"{way}_{name}": value for name, value in measured.items()}
        if way == judgement.kept:
            found |= measured
    return found


def rows(judgement: Judgement) -> list[dict[str, Any]]:
    """A row for each field, target and way: what was measured of its pixels."""
    with_time = has_times(field.key for field in judgement.measurements)
    return [
        {**field.key.columns(with_time=with_time), "target": target, "intensities": way, **measured}
        for field in judgement.measurements
        for way, targets in field.pixels.items()
        for target, measured in targets.items()
    ]


def feature_rows(judgement: Judgement) -> list[dict[str, Any]]:
    """A row for each magnification, way and feature: its error, or why it was left out."""
    found = []
    for way, one in judgement.scores.items():
        for magnification, part in one.parts.items():
            row = {"magnification": magnification, "intensities": way}
            found += [
                {**row, "feature": name, "error": error, "left_out": ""}
                for name, error in part.feature_errors.items()
            ]
            found += [
                {**row, "feature": name, "error": None, "left_out": reason}
                for name, reason in part.left_out.items()
            ]
    return found


def feature_tables(judgement: Judgement) -> dict[str, str]:
    """CellProfiler's Image tables by "20x/truth_Image.csv", "20x/matching_Image.csv", …

    The organisers' notebook reads them. A row for each field that was measured; "nan" where there
    is no number.
    """
    tables = {}
    for magnification in judgement.scores[judgement.kept].parts:
        measured = [
            field
            for field in judgement.measurements
            if field.key.magnification == magnification and field.truth_features
        ]
        if not measured:
            continue
        tables[f"{magnification}x/{TRUTH}_Image.csv"] = _image_table(
            [(field, field.truth_features) for field in measured]
        )
        for way in judgement.scores:
            tables[f"{magnification}x/{way}_Image.csv"] = _image_table(
                [(field, field.painted_features[way]) for field in measured]
            )
    return tables


def table(judgement: Judgement) -> str:
    """The judgement as text: a line for each target and way, then one for each way's score."""
    found = metrics(judgement)
    several = len(judgement.scores) > 1
    lines = ["target  intensities   MAE (counts)   MAE/median   PSNR (dB)   SSIM   Pearson r"]
    for target in judgement.targets:
        for way in judgement.scores:
            prefix = f"{way}_" if several else ""
            mae, pixel, psnr, ssim, pearson = (
                found.get(f"{prefix}{name}_{target}", float("nan"))
                for name in ("mae", "pixel_metric", "psnr", "ssim", "pearson")
            )
            numbers = f"{mae:>12.1f} {pixel:>12.3f} {psnr:>11.1f} {ssim:>6.3f} {pearson:>11.3f}"
            lines.append(f"{target:<7} {_marked(way, judgement):<13} {numbers}")
    lines += [
        "",
        "        intensities   combined   pixels   features   left out   95 % over fields",
    ]
    for way, one in judgement.scores.items():
        low, high = one.intervals["combined_metric"].get("fields", (None, None))
        interval = f"{low:.3f} – {high:.3f}" if low is not None else "–"
        combined, feature = _number(one.combined_metric), _number(one.feature_metric)
        numbers = f"{combined:>9} {one.pixel_metric:>8.3f} {feature:>10} {one.n_left_out:>10}"
        lines.append(f"        {_marked(way, judgement):<13} {numbers}   {interval}")
    return "\n".join(lines)


def _marked(way: str, judgement: Judgement) -> str:
    return f"{way} *" if way == judgement.kept and len(judgement.scores) > 1 else way


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _pixel_means(measurements: Sequence[FieldMeasurement], way: str) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for field in measurements:
        for target, found in field.pixels[way].items():
            for name in PIXEL_MEASUREMENTS:
                values[f"{name}_{target}"].append(found[name])
                values[f"{name}_{target}_{field.key.magnification}x"].append(found[name])
    return {name: float(np.mean(found)) for name, found in values.items()}


def _score_metrics(one: Score) -> dict[str, float]:
    found: dict[str, float | None] = {metric: getattr(one, metric) for metric in METRICS}
    for metric, intervals in one.intervals.items():
        for drawn, (low, high) in intervals.items():
            infix = "" if drawn == "fields" else f"_{drawn}"
            found |= {f"{metric}{infix}_low": low, f"{metric}{infix}_high": high}
    for magnification, part in one.parts.items():
        found |= {f"{name}_{magnification}x": value for name, value in _part_metrics(part).items()}
    for target in sorted({target for part in one.parts.values() for target in part.pixel_metrics}):
        parts = [part for part in one.parts.values() if target in part.pixel_metrics]
        found[f"pixel_metric_{target}"] = mean_over(
            parts, [part.pixel_metrics[target] for part in parts]
        )
    found |= {
        "n_fields": sum(part.n_fields for part in one.parts.values()),
        "n_features_left_out": one.n_left_out,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _part_metrics(part: Part) -> dict[str, float | None]:
    return {
        **{metric: getattr(part, metric) for metric in METRICS},
        **{f"pixel_metric_{target}": value for target, value in part.pixel_metrics.items()},
        "n_fields": part.n_fields,
        "n_features_left_out": len(part.left_out),
    }


def _image_table(measured: list[tuple[FieldMeasurement, dict[str, float]]]) -> str:
    """CSV with CellProfiler's columns in its order, which is alphabetical."""
    text = io.StringIO()
    times = [TIMEPOINT] if has_times(field.key for field, _ in measured) else []
    columns = sorted([*COLUMNS, "ImageNumber", "Metadata_FoV", *times, "Metadata_Well"])
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for number, (field, features) in enumerate(measured, start=1):
        row: dict[str, Any] = {
            "ImageNumber": number,
            "Metadata_FoV": f"F{field.key.fov:03d}",
            "Metadata_Well": field.key.well,
        } | dict.fromkeys(times, field.key.time)
        for name, value in features.items():
            row[name] = value if np.isfinite(value) else "nan"
        writer.writerow(row)
    return text.getvalue()
