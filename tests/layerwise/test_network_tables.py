"""The eight networks on the NPU model beside the totals that layerwise.md gives (acceptance 5)."""

from __future__ import annotations

import pytest

from batchwright_worker.layerwise.core.steps import seconds_of_steps
from batchwright_worker.layerwise.core.values import Layer
from batchwright_worker.layerwise.tools.npu_model import REFERENCE_NPU, Npu, Product, divided
from batchwright_worker.layerwise.tools.published_networks import NETWORKS, REFERENCE_MICROSECONDS, layers_of

MILLION = 1e6


@pytest.mark.parametrize(("network", "given"), REFERENCE_MICROSECONDS.items())
def test_totals_match_the_given_ones(network: str, given: tuple[int, int]) -> None:
    layers = layers_of(network, REFERENCE_NPU)
    assert seconds_of_steps(sum(layer.compute for layer in layers)) * MILLION == pytest.approx(given[0], rel=0.045)
    assert seconds_of_steps(sum(layer.fetch for layer in layers)) * MILLION == pytest.approx(given[1], abs=0.51)


@pytest.mark.parametrize(
    ("network", "weights", "operations"),
    [
        ("ResNet-50", 25.50e6, 4.09e9),
        ("ResNeXt-50", 24.96e6, 4.23e9),
        ("MobileNet-v2", 3.47e6, 0.301e9),
        ("Inception-v3", 23.8e6, 5.71e9),
        ("BERT-base", 84.9e6, 2.74e9),
        ("BERT-large", 302e6, 9.71e9),
        ("GNMT", 134.2e6, 4.29e9),
    ],
)
def test_architectures_have_their_published_sizes(network: str, weights: float, operations: float) -> None:
    products = NETWORKS[network]()
    assert sum(product.weight_bytes for product in products) == pytest.approx(weights, rel=0.005)
    assert sum(product.operations for product in products) == pytest.approx(operations, rel=0.005)


def test_no_layer_is_larger_than_half_of_the_memory() -> None:
    small = Npu(memory_bytes=2 * 2**20)
    for network in NETWORKS:
        layers, whole = layers_of(network, small), layers_of(network, REFERENCE_NPU)
        assert max(layer.bytes for layer in layers) <= 2**20
        assert sum(layer.bytes for layer in layers) == sum(layer.bytes for layer in whole)
        assert sum(layer.compute for layer in layers) == pytest.approx(sum(layer.compute for layer in whole))


@pytest.mark.parametrize(
    ("product", "tiles", "cycles"),
    [
        (Product(name="whole tiles", rows=64, inner=256, columns=256), 4, 64),
        (Product(name="one tile: rows are shared", rows=256, inner=128, columns=128), 1, 64),
        (Product(name="few rows: the load of the weights shows", rows=1, inner=256, columns=256), 4, 32),
        (Product(name="14 depthwise channels share a tile", rows=64, inner=9, columns=1, groups=56), 4, 64),
        (Product(name="large groups do not share", rows=64, inner=144, columns=16, groups=2), 4, 64),
    ],
    ids=lambda value: value.name if isinstance(value, Product) else "",
)
def test_tiles_and_cycles_of_a_product(product: Product, tiles: int, cycles: int) -> None:
    assert (REFERENCE_NPU.tiles(product), REFERENCE_NPU.cycles(product)) == (tiles, cycles)


def test_parts_of_a_layer_add_up() -> None:
    parts = divided([Layer(compute=9, fetch=6, bytes=10, name="wide")], 4)
    assert [(part.bytes, part.compute, part.fetch) for part in parts] == [(3, 3, 2), (3, 3, 2), (4, 3, 2)]
    assert parts[1].name == "wide[2/3]"
