"""Runs a recipe: a folder comes out that holds the models, every measurement and how it was made."""

import copy
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from kezuri.artifact.atomic import explain, read_json, write_bytes, write_json
from kezuri.artifact.folder import RunFolder
from kezuri.artifact.lock import locked
from kezuri.artifact.manifest import Manifest, environment, now
from kezuri.core.errors import CorruptArtifact, Interrupted, KezuriError, ResourceError, UsageError
from kezuri.model.channels import DEFAULT
from kezuri.model.load import ModelSpec
from kezuri.model.program import Program
from kezuri.model.structure_file import STRUCTURE, read_document
from kezuri.prune.masks import Masks
from kezuri.quantization.network import Quantizable
from kezuri.quantization.portable import quantization_of, read_model, save_model, scheme_of
from kezuri.recipe.finish import STAGE, finish
from kezuri.recipe.foresight import foresee, warnings_of
from kezuri.recipe.listener import Listener, SilentListener
from kezuri.recipe.prepare import Prepared, describe, prepare
from kezuri.recipe.recipe import Recipe, recipe_from_json
from kezuri.recipe.requantizing import apply_step, quantized_before
from kezuri.recipe.sample_size import doubts
from kezuri.recipe.stages import Stages
from kezuri.recipe.step import ModelState, Resources
from kezuri.runtime.runner import thread_count


def run(
    prepared: Prepared,
    *,
    runs: Path,
    listener: Listener | None = None,
    as_written: str | None = None,
    threads: int | None = None,
) -> RunFolder:
    """Runs a prepared recipe, or goes on where an earlier run of it stopped.

    Args:
        prepared: the recipe with its inputs.
        runs: the folder that holds the runs; this one gets `<name>-<fingerprint>` inside it.
        listener: hears what happens.
        as_written: the recipe file's text, kept beside the complete recipe.
        threads: for training; a run that goes on keeps the number it began with, because another one
            changes the last bits of the weights.

    Raises:
        KezuriError: whatever went wrong; the run can be resumed.
    """
    return _run_in(
        RunFolder(runs / prepared.run_name),
        prepared,
        listener=listener or SilentListener(),
        as_written=as_written,
        threads=threads,
    )


def _run_in(
    folder: RunFolder,
    prepared: Prepared,
    *,
    listener: Listener,
    as_written: str | None = None,
    threads: int | None = None,
) -> RunFolder:
    manifest = Manifest(folder)
    with locked(folder.path):
        begun = manifest.read()
        if begun.get("status") == "finished":
            damaged = manifest.damaged()
            if not damaged:
                listener.say(f"{folder.path} is finished already")
                return folder
            for name, what in damaged.items():
                listener.warn(f"{folder.path / name}: {what}; it is made and measured again")
            stages_of(prepared, folder).forget(STAGE)
        _set_threads(threads, begun, listener)
        if not folder.recipe.exists():
            write_json(folder.recipe, prepared.recipe.to_json())
        if as_written is not None and not folder.recipe_as_written.exists():
            write_bytes(folder.recipe_as_written, as_written.encode())
        manifest.update(
            **describe(prepared),
            **environment(),
            threads=torch.get_num_threads(),
            status="running",
            reason=None,
            began=begun.get("began", now()),
        )
        with _ending_said(folder, manifest, earlier=begun.get("seconds", 0.0)):
            _go(prepared, folder, listener)
    return folder


def resume(
    path: Path, *, data_root: Path | None = None, device: str = "auto", listener: Listener | None = None
) -> RunFolder:
    """Goes on with the run in a folder; recipe, seed and threads are the run's own.

    Raises:
        DataError: the folder holds no run, or its data changed since.
        UsageError: model code or weights changed since.
    """
    folder = RunFolder.open(path)
    recipe = recipe_from_json(read_json(folder.recipe), str(folder.recipe))
    before = Manifest(folder).read()
    places = {name: Path(place) for name, place in before.get("places", {}).items()}
    prepared = prepare(
        recipe,
        data_root=data_root or places.get("data_root"),
        device=before.get("device", device) if device == "auto" else device,
        near=places.get("near"),
    )
    if prepared.fingerprint != before.get("fingerprint", path.resolve().name.rpartition("-")[2]):
        inputs = before.get("inputs", prepared.inputs)
        changed = [name for name, hash_ in prepared.inputs.items() if inputs.get(name) != hash_]
        raise UsageError(
            f"{path} cannot go on: its {' and '.join(changed) or folder.recipe.name} changed since it began; "
            f"start a new run instead"
        )
    return _run_in(folder, prepared, listener=listener or SilentListener())


def _go(prepared: Prepared, folder: RunFolder, listener: Listener) -> None:
    resources = resources_of(prepared, folder, listener)
    state = ModelState(copy.deepcopy(prepared.model).to(prepared.device))
    if not folder.stages.exists():
        foresee(prepared, resources)
    for warning in [*warnings_of(prepared, resources), *doubts(prepared)]:
        listener.warn(warning)
    for number, (step, quantize) in enumerate(quantized_before(prepared.recipe), start=1):
        if step.compresses and resources.dense is None:
            resources = replace(resources, dense=state)
        stage = f"{number}-{stage_name(prepared.recipe, number)}"
        state = apply_step(step, quantize, state, resources, stage=stage)
    finish(resources.dense or state, state, resources, folder)


def resources_of(prepared: Prepared, folder: RunFolder, listener: Listener | None = None) -> Resources:
    """What the steps of a run may use."""
    return Resources(
        data=prepared.data,
        device=prepared.device,
        seed=prepared.recipe.seed,
        goal=prepared.recipe.goal,
        stages=stages_of(prepared, folder),
        model=prepared.recipe.model,
        fresh=prepared.structure,
        build=prepared.build,
        listener=listener or SilentListener(),
    )


def stage_name(recipe: Recipe, number: int) -> str:
    """The registered name of a step, counted from 1."""
    from kezuri.recipe.step import steps

    return steps.name_of(recipe.steps[number - 1])


def stages_of(prepared: Prepared, folder: RunFolder) -> Stages:
    """The stages of a run, able to save and rebuild its models."""

    def save(path: Path, state: ModelState) -> None:
        save_state(path, state, prepared)

    def load(path: Path) -> ModelState:
        named = read_document(path / STRUCTURE).model
        spec = prepared.known(None if named is None else ModelSpec(named.use, named.options))
        saved = read_model(path, build=lambda: prepared.structure(spec))
        masks = Masks(saved.masks) if saved.masks else None
        scheme = None if saved.quantization is None else scheme_of(saved.quantization)
        return ModelState(saved.model.to(prepared.device), saved.structure, masks, spec, scheme)

    return Stages(folder, save=save, load=load)


def save_state(path: Path, state: ModelState, prepared: Prepared) -> None:
    """Writes a model state as a portable model."""
    save_model(
        path,
        state.model,
        spec=state.spec or prepared.spec,
        classes=len(prepared.data.classes),
        image_shape=prepared.data.image_shape,
        structure=state.structure,
        choices=DEFAULT if state.quantization is None else None,
        quantization=_quantization(state),
        masks=None if state.masks is None else dict(state.masks),
    )


def _quantization(state: ModelState) -> tuple[str, Mapping[str, Any]] | None:
    if state.quantization is None:
        return None
    assert isinstance(state.model, Program)
    return quantization_of(Quantizable(state.model, (), (), state.quantization))


@contextmanager
def _ending_said(folder: RunFolder, manifest: Manifest, *, earlier: float) -> Iterator[None]:
    """Notes in the manifest how the run ended and how long it worked, kills excepted."""
    begin = perf_counter()

    def note(status: str, reason: str | None) -> None:
        try:
            manifest.update(status=status, reason=reason, seconds=earlier + perf_counter() - begin)
        except (ResourceError, CorruptArtifact):
            if status == "finished":
                raise

    again = f"resume with: kezuri resume {shlex.quote(str(folder.path))}"
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as error:
        note("interrupted", "stopped by the user")
        raise Interrupted(f"stopped; nothing is lost, {again}") from error
    except ResourceError as error:
        note("failed", str(error))
        raise ResourceError(f"{error}; {again}") from error
    except KezuriError as error:
        note("failed", str(error))
        raise
    except OSError as error:
        wrapped = explain(error, folder.path)
        note("failed", str(wrapped))
        raise type(wrapped)(f"{wrapped}; {again}") from error
    except MemoryError as error:
        note("failed", "out of memory")
        raise ResourceError(f"out of memory: try a smaller batch_size; {again}") from error
    except Exception as error:
        note("failed", f"{type(error).__name__}: {error}")
        raise
    note("finished", None)


def _set_threads(threads: int | None, begun: dict[str, object], listener: Listener) -> None:
    before = begun.get("threads")
    if isinstance(before, int):
        if threads not in (None, before):
            listener.warn(f"this run began with {before} threads and goes on with them")
        threads = before
    if threads is not None:
        torch.set_num_threads(thread_count(threads))
