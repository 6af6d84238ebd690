"""`kezuri report`: one self-contained page about a run."""

from kezuri.cli.options import RunPath


def report(run: RunPath) -> None:
    """Writes report.html and the pictures of a run, finished or not."""
    import sys

    from kezuri.artifact.folder import RunFolder
    from kezuri.artifact.manifest import Manifest
    from kezuri.report.write import write_report

    print(write_report(run))
    for name, what in Manifest(RunFolder(run)).damaged().items():
        print(f"warning: {run / name}: {what}; `kezuri resume` makes it again", file=sys.stderr)
