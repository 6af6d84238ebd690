"""Which layers stay in floats so that the whole keeps a budget of time and loses least.

Runtimes compute in 8 bits or in floats, so these are what a layer may have. What each loses in integers and
takes by itself gives the choices that nothing beats, as for a budget of bytes (`kezuri.quantization.bits`);
as times do not add up exactly, a few of these choices are made and timed as a whole, and of those that keep
the budget as measured the one that loses least is taken.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from kezuri.artifact.atomic import read_json, write_json
from kezuri.core.errors import CorruptArtifact, GoalUnreachable
from kezuri.core.progress import Progress
from kezuri.quantization.bits import Allocation, front, uniform
from kezuri.quantization.budget import Allocated, Tried
from kezuri.quantization.fake import quantizers_of
from kezuri.quantization.layer_losses import LayerCosts, measure_layers_in_integers
from kezuri.quantization.layer_times import LayerTimes, Race
from kezuri.quantization.post_training import post_training
from kezuri.quantization.ptq import PostTraining
from kezuri.quantization.quantized import image_shape_of
from kezuri.quantization.roundings.nearest import Nearest
from kezuri.quantization.scheme import Scheme
from kezuri.quantization.sensitivity import INTEGERS, UNTOUCHED, Cost, Option, SensitivityTable
from kezuri.runtime.export import export_onnx

FORMAT = "kezuri latencies 1"
POINTS = 200


def choose_within_latency(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, ...]],
    scheme: Scheme,
    method: PostTraining,
    most: float,
    *,
    race: Race,
    labels: Tensor | None,
    journal: Path | None,
    progress: Progress,
) -> Allocated:
    """Chooses layers to leave in floats; arguments and errors as of `allocate_layers`.

    Args:
        most: below 1 a fraction of what the model takes in floats, from 1 on milliseconds for one image.
        race: times files.

    Raises:
        GoalUnreachable: the fastest choice takes longer, as measured.
    """
    plain = replace(method, rounding=Nearest(), correct_bias=False, reestimate_norms=False)
    with TemporaryDirectory() as folder:
        trials = _Trials(model, batches, scheme, plain, race, Path(folder), journal)
        whole = post_training(model, batches, scheme, plain, progress)
        for quantizer in quantizers_of(whole.model).values():
            quantizer.on = False
        costs = LayerCosts.of_prepared(whole.prepared)
        times = LayerTimes(whole.prepared, tuple(part[:1] for part in batches[0]), race, Path(folder))

        def cost(layer: str, option: Option) -> Cost:
            each = [times.of(site)[option == INTEGERS] for site in costs.sites[layer]]
            return replace(costs.cost(layer, option), latency=sum(each))

        table = measure_layers_in_integers(
            costs,
            batches,
            plain,
            cost_of=cost,
            fixed=costs.fixed,
            about={"runtime": race.runtime, "scheme": repr(scheme)},
            labels=labels,
            journal=journal,
            progress=progress,
        )
        table = _in_line(table, trials.floats, trials.latency(()))
        limit = most * trials.floats if most < 1 else most
        unbeaten = front(table, metric="latency", points=POINTS)
        able = [one for one in unbeaten if INTEGERS in one.options.values()]
        if not able:  # each layer by itself is faster in floats
            able = [made for option, made in uniform(table) if option == INTEGERS]
        chosen = trials.search(able, limit, progress)
        floats = replace(costs.whole, latency=trials.floats)
        return Allocated(chosen, table, limit, floats, tried=tuple(trials.tried))


def _in_line(table: SensitivityTable, floats: float, integers: float) -> SensitivityTable:
    """The table with latencies that add up to those measured of the whole, in floats and in integers."""
    plain, rounded = (
        sum(table.entry(layer, option).cost.latency or 0.0 for layer in table.layers)
        for option in (UNTOUCHED, INTEGERS)
    )
    factor = (floats - integers) / (plain - rounded) if floats > integers and plain > rounded else 1.0

    def scaled(cost: Cost) -> Cost:
        return replace(cost, latency=factor * (cost.latency or 0.0))

    layers = {
        layer: tuple(replace(entry, cost=scaled(entry.cost)) for entry in entries)
        for layer, entries in table.layers.items()
    }
    rest = max(integers - factor * rounded, 0.0)
    return replace(table, layers=layers, fixed=replace(table.fixed, latency=rest))


class _Trials:
    """Makes choices and times them as a whole, each once, against the model in floats."""

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[tuple[Tensor, ...]],
        scheme: Scheme,
        method: PostTraining,
        race: Race,
        folder: Path,
        journal: Path | None,
    ) -> None:
        self.model, self.scheme, self.method, self.race, self.folder = model, scheme, method, race, folder
        self.batches = batches[:1]  # ranges do not matter to time
        self.shape = image_shape_of(batches[0])
        self.journal = None if journal is None else journal.with_suffix(".latencies.json")
        self.known = self._read()
        self.plain: Path | None = None
        self.tried: list[Tried] = []

    @property
    def floats(self) -> float:
        """Milliseconds of the model in floats for one image."""
        self.latency(())
        return self.known["floats"]

    def latency(self, spared: tuple[str, ...]) -> float:
        """Milliseconds for one image with these layers in floats; scaled to one speed of the machine."""
        key = "integers" + "".join(f" -{name}" for name in spared)
        if key not in self.known:
            if self.plain is None:
                self.plain = export_onnx(self.model, self.shape, self.folder / "floats.onnx")
            made = post_training(self.model, self.batches, self.scheme, self.method, spared=spared)
            path = made.export(self.folder / "trial.onnx")
            found = self.race({"floats": self.plain, "trial": path}, (1, *self.shape))
            floats = self.known.setdefault("floats", found["floats"])
            self.known[key] = floats * found["trial"] / found["floats"]
            if self.journal is not None:
                write_json(self.journal, {"format": FORMAT, "latencies": self.known})
        return self.known[key]

    def search(self, choices: Sequence[Allocation], limit: float, progress: Progress) -> Allocation:
        """The choice that loses least and keeps the limit as measured, found by bisection.

        Args:
            choices: with a layer in integers at least, by rising cost, and falling loss.
        """
        progress.start("timing choices", total=len(choices).bit_length(), done=0)
        try:
            best = self._timed(choices[0], progress)
            if (best.cost.latency or 0.0) > limit:
                raise self._unreachable(best, limit)
            low, high = 0, len(choices)
            while high - low > 1:
                middle = (low + high) // 2
                found = self._timed(choices[middle], progress)
                if (found.cost.latency or 0.0) <= limit:
                    low, best = middle, found
                else:
                    high = middle
            return best
        finally:
            progress.done()

    def _timed(self, choice: Allocation, progress: Progress) -> Allocation:
        spared = tuple(layer for layer, option in choice.options.items() if option == UNTOUCHED)
        timed = replace(choice, cost=replace(choice.cost, latency=self.latency(spared)))
        self.tried.append(Tried(timed, len(spared)))
        progress.advance(1, {})
        return timed

    def _unreachable(self, fastest: Allocation, limit: float) -> GoalUnreachable:
        took = fastest.cost.latency or 0.0
        return GoalUnreachable(
            f"the budget of {limit:.4g} ms ({limit / self.floats:.1%} of the {self.floats:.4g} ms in floats) "
            f"cannot be reached: the fastest choice of layers in integers takes {took:.4g} ms "
            f"({took / self.floats:.1%}); cut channels first"
        )

    def _read(self) -> dict[str, float]:
        if self.journal is None or not self.journal.exists():
            return {}
        content = read_json(self.journal)
        try:
            if content["format"] != FORMAT:
                raise KeyError("format")
            return {str(name): float(value) for name, value in content["latencies"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptArtifact(f"{self.journal} does not hold measured latencies: {error!r}") from error
