"""`kezuri report`: one self-contained page about a run."""

from kezuri.cli.options import RunPath


def report(run: RunPath) -> None:
    """Writes report.html and the pictures of a run, finished or not."""
    from kezuri.report.write import write_report

    print(write_report(run))
