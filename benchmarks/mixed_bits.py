"""Bits chosen for each layer against the same bits for all, in as many bytes, after calibration only.

    python benchmarks/mixed_bits.py --models DIR --data DIR

A published CIFAR-10 ResNet with weights of 4, 3 and 2 bits (the first and the last layer 8, as `quantize`
has it) and activations of 8; and with the bits that `allocate` chooses within as many bytes, from a table
that was measured once. Everything is chosen and calibrated on training images, of which batch normalisation
is estimated anew, too; accuracy is that of images held out from the test part, which the network never saw.
Some three minutes of one core.
"""

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

from record import record

from kezuri import evaluate, load_data, load_model
from kezuri.quantization.bits import allocate
from kezuri.quantization.layer_losses import LayerCosts, layer_inputs, measure_layers
from kezuri.quantization.observers.mse import Mse
from kezuri.quantization.post_training import calibration_batches, post_training
from kezuri.quantization.ptq import PostTraining
from kezuri.quantization.scheme import Scheme
from kezuri.quantization.sensitivity import Cost, Option

NORMALIZE = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BITS = (8, 6, 5, 4, 3, 2)
EDGES = 8


def main() -> None:
    options = arguments()
    data = load_data(
        "cifar10",
        root=options.data,
        normalize=NORMALIZE,
        download=False,
        validation=options.validation,
        validation_from="test",
    )
    weights = options.models / f"{options.model}_cifar10.safetensors"
    model = load_model(options.model, classes=10, image_shape=data.image_shape, weights=weights)
    method = PostTraining(weight_observer=Mse(), images=options.images, reestimate_norms=True)
    batches = calibration_batches(model, data, method)
    costs = LayerCosts.of(model, layer_inputs(model, batches), Scheme())
    begin = perf_counter()
    choices = {layer: [Option(bits) for bits in BITS] for layer in costs.sites}
    table = measure_layers(costs, batches, method, options=choices)
    seconds = perf_counter() - begin
    exact = evaluate(model, data.validation, device="cpu").accuracy
    print(
        f"float32: {costs.whole.size:,.0f} bytes, accuracy {exact:.2%}; table in {seconds:.0f} s", flush=True
    )
    layers = list(costs.sites)
    findings: list[dict[str, Any]] = [{"bits": 32, "size": costs.whole.size, "accuracy": exact}]
    for bits in options.bits:
        even = {layer: EDGES if layer in (layers[0], layers[-1]) else bits for layer in layers}
        size = Cost.total(
            [costs.fixed, *(costs.cost(layer, Option(own)) for layer, own in even.items())]
        ).size
        chosen = allocate(table, metric="size", most=size)
        mixed = {layer: option.bits for layer, option in chosen.options.items()}
        found = {}
        for name, layer_bits in (("uniform", even), ("mixed", mixed)):
            made = post_training(model, batches, Scheme(layer_bits=layer_bits), method)
            found[name] = evaluate(made.model, data.validation, device="cpu").accuracy
        findings.append(
            {"bits": bits, "size": size, "mixed size": chosen.cost.size, **found, "chosen": mixed}
        )
        print(
            f"{bits} bits: {size:,.0f} bytes ({size / costs.whole.size:.1%}): "
            f"uniform {found['uniform']:.2%}, mixed {found['mixed']:.2%} "
            f"in {chosen.cost.size:,.0f}: {list(mixed.values())}",
            flush=True,
        )
    conditions = {"model": options.model, "images": options.images, "validation": options.validation}
    print(record("mixed_bits", findings, **conditions, seconds_of_table=round(seconds, 1)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True, help="holds MODEL_cifar10.safetensors")
    parser.add_argument("--data", type=Path, required=True, help="holds cifar10")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--images", type=int, default=128, help="to calibrate and to measure with")
    parser.add_argument("--validation", type=int, default=2000, help="images that accuracy is told on")
    parser.add_argument("--bits", type=int, nargs="*", default=[4, 3, 2])
    return parser.parse_args()


if __name__ == "__main__":
    main()
