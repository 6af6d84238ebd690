"""`kezuri resume`: goes on with a run that was stopped or killed."""

from kezuri.cli.options import DataRoot, Device, RunPath


def resume(run: RunPath, *, data: DataRoot = None, device: Device = "auto") -> None:
    """Goes on with a run where it stopped; the result is the same as without the stop."""
    from kezuri.cli.console import ConsoleListener
    from kezuri.cli.running import conclude
    from kezuri.recipe.run import resume as go_on

    listener = ConsoleListener()
    conclude(go_on(run, data_root=data, device=device, listener=listener), listener)
