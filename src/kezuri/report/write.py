"""Writes reports into folders, each file whole or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kezuri.artifact.atomic import write_bytes
from kezuri.artifact.folder import MaskStudyFolder, ReportFolder, RunFolder, StudyFolder
from kezuri.report.allocation import allocation_chart
from kezuri.report.bits_chart import bits_chart
from kezuri.report.compare import compare
from kezuri.report.grid import Grid
from kezuri.report.mask_study import MaskStudyView, differences_table, searches_table
from kezuri.report.mask_study_charts import mask_study_charts
from kezuri.report.mask_study_page import mask_study_page
from kezuri.report.page import comparison_page, run_page
from kezuri.report.pareto import pareto_chart
from kezuri.report.plots import Chart, damage_chart, layers_chart, png
from kezuri.report.reading import RunView
from kezuri.report.rounds_chart import rounds_chart
from kezuri.report.study import StudyView
from kezuri.report.study_charts import study_charts
from kezuri.report.study_page import study_page
from kezuri.report.study_tables import study_data
from kezuri.report.tradeoff import tradeoff_chart


def write_report(folder: Path) -> Path:
    """Writes `report.html` and `plots/*.png` of a run or of a study, finished or not.

    Returns:
        the path of the page.

    Raises:
        DataError: the folder holds neither.
        CorruptArtifact: a file of the run cannot be read.
        ResourceError: the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    if StudyFolder(folder).record.is_file():
        return write_study(folder)
    if MaskStudyFolder(folder).record.is_file():
        return write_mask_study(folder)
    run = RunView.read(folder)
    home = RunFolder(run.path)
    charts = run_charts(run)
    return _write(home, run_page(run, charts), charts)


def write_comparison(
    folders: Sequence[Path], out: Path, *, keep: float | None = None, sort: str = "size"
) -> Path:
    """Writes the comparison of many runs to `out` (an HTML file), and its chart beside it as a PNG.

    Args:
        folders: run folders.
        out: the path of the page.
        keep, sort: as in `compare`.

    Returns:
        the path of the page.

    Raises:
        DataError, UsageError, ResourceError: as in `compare` and `write_report`.
    """
    comparison = compare(folders, keep=keep, sort=sort)
    chart = pareto_chart(comparison)
    charts: dict[str, Chart] = {} if chart is None else {"pareto": chart}
    for found in charts.values():
        write_bytes(out.with_suffix(".png"), png(found))
    write_bytes(out, comparison_page(comparison, charts).encode())
    return out


def write_study(path: Path) -> Path:
    """Writes `report.html`, `plots/*.png`, `table.csv` and `table.json` of a study, finished or not.

    Returns:
        the path of the page.

    Raises:
        DataError: the folder holds no study.
        CorruptArtifact: a file of the study cannot be read.
        ResourceError: the disk is full or the folder cannot be written.
    """
    study, home = StudyView.read(path), StudyFolder(path)
    charts = study_charts(study)
    return _write(home, study_page(study, charts), charts, {"table": study_data(study)})


def write_mask_study(path: Path) -> Path:
    """Writes the report, the plots and the tables of a study of mask searches, finished or not.

    The tables are `searches` and `differences`, each as CSV and as JSON.

    Returns:
        the path of the page.

    Raises:
        DataError: the folder holds no such study.
        CorruptArtifact: a file of the study cannot be read.
        ResourceError: the disk is full or the folder cannot be written.
    """
    study, home = MaskStudyView.read(path), MaskStudyFolder(path)
    charts = mask_study_charts(study)
    tables = {"searches": searches_table(study), "differences": differences_table(study)}
    return _write(home, mask_study_page(study, charts), charts, tables)


def run_charts(run: RunView) -> dict[str, Chart]:
    """The charts there is something to draw for, by name."""
    charts = {
        "rounds": rounds_chart(run),
        "pareto": tradeoff_chart(run),
        "layers": layers_chart(run.layers),
        "bits": allocation_chart(run.allocation) if run.allocation else None,
        "bits_by_layer": bits_chart(run.allocation),
        "damage": damage_chart(run.damage),
    }
    return {name: chart for name, chart in charts.items() if chart is not None}


def _write(
    home: ReportFolder, page: str, charts: Mapping[str, Chart], tables: Mapping[str, Grid] | None = None
) -> Path:
    """The plots, the tables and, last, the page: where it stands, the rest does."""
    for name, chart in charts.items():
        write_bytes(home.plots / f"{name}.png", png(chart))
    for name, table in (tables or {}).items():
        write_bytes(home.table(name, "csv"), table.csv().encode())
        write_bytes(home.table(name, "json"), table.json().encode())
    write_bytes(home.report, page.encode())
    return home.report
