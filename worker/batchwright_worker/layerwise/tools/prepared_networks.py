"""The prepared networks of one `layerwise` command: opened, cut into units and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import click

from batchwright_worker.host.machine import processor_name
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.execution.cpu import CpuAccelerator
from batchwright_worker.layerwise.execution.planner import UnitPlans
from batchwright_worker.layerwise.memory.pool import Reads, UnitReader
from batchwright_worker.layerwise.networks.cuts import unit_limits
from batchwright_worker.layerwise.networks.units import PAGE, Network, NotDivisible
from batchwright_worker.layerwise.profiling.fetch_floor import fetch_floor
from batchwright_worker.layerwise.profiling.profiler import RUNS, Effort, measured
from batchwright_worker.layerwise.profiling.profiles import Profile, cache_folder

__all__ = ["PreparedNetworks", "prepare_networks"]

_FORMATS: Final = {".onnx": "onnx", ".pt2": "torch-export"}
_SAMPLE_ROWS: Final = {"resnet50": 12}


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedNetworks:
    """Networks by name, each with its reader and its profile; all within one budget."""

    networks: Mapping[str, Network]
    readers: Mapping[str, UnitReader]
    profiles: Mapping[str, Profile]
    budget: int
    reads: Reads

    def device(self, stack: ExitStack) -> tuple[CpuAccelerator, UnitPlans]:
        """One with all the networks on it, and their plans; its memory is given back with the stack."""
        device, plans = CpuAccelerator(self.budget, self.reads), UnitPlans()
        stack.callback(device.pool.close)
        for name, network in self.networks.items():
            device.add(name, network)
            plans.add(name, [self.profiles[name]])
        return device, plans


def prepare_networks(
    stack: ExitStack, *, models: Sequence[tuple[str, str]], budget: int, reads: str, **more: Any
) -> PreparedNetworks:
    """From a command's options. Raises ClickException."""
    from batchwright_worker.backends.base import Host
    from batchwright_worker.host.memory import EmulatedMemory
    from batchwright_worker.host.threads import pin_libraries, thread_count

    pin_libraries()
    folder = more["cache"] or cache_folder()
    files = {name: Path(path) for name, path in models} or _samples(folder / "samples")
    rows = _rows(files, more["rows"], sampled=not models)
    host = Host(kind="cpu", threads=more["threads"] or thread_count(), emulated_memory=EmulatedMemory(0))
    processor = f"{processor_name()} x{host.threads} {reads}"
    device = CpuAccelerator(budget, cast(Reads, reads))
    floor = fetch_floor(folder, processor, device.fetch_probe)
    device.close()
    networks, readers, profiles = {}, {}, {}
    for name, path in files.items():
        networks[name] = network = _opened(name, path, host, folder, (budget, floor.least_bytes))
        readers[name] = reader = UnitReader(network.folder, cast(Reads, reads))
        stack.callback(reader.close)
        if reads != "cached":
            reader.forget()
        profiles[name] = measured(network, reader, rows[name], processor, Effort(runs=RUNS, least=RUNS))
    return PreparedNetworks(
        networks=networks, readers=readers, profiles=profiles, budget=budget, reads=cast(Reads, reads)
    )


def _opened(name: str, path: Path, host: Any, folder: Path, sizes: tuple[int, int]) -> Network:
    """`sizes`: of the memory, and of the smallest unit that is worth a fetch; cut as a runtime cuts."""
    from batchwright_worker.backends.base import LoadError
    from batchwright_worker.layerwise.networks.open import open_network

    kind = _FORMATS.get(path.suffix)
    if kind is None:
        raise click.ClickException(f"{path}: give a .onnx or a .pt2 (torch.export) file")
    source = ModelSource(name=name, format=kind, path=str(path), inputs=[], outputs=[])
    budget, least = sizes
    try:
        network = open_network(source, host, folder, *unit_limits(budget, least))
    except (NotDivisible, LoadError) as error:
        raise click.ClickException(f"{name}: {error}") from error
    if network.index.largest_bytes > budget // PAGE * PAGE:
        raise click.ClickException(
            f"{name}: its largest unit has {network.index.largest_bytes} bytes, which cannot be split further; "
            f"the budget is {budget}: raise it"
        )
    return network


def _samples(folder: Path) -> dict[str, Path]:
    """ResNet-50 and a wide network, written once."""
    from batchwright_worker.layerwise.tools.samples import write_conv, write_wide

    folder.mkdir(parents=True, exist_ok=True)
    files = {"resnet50": folder / "resnet50.onnx", "wide": folder / "wide.onnx"}
    for (name, path), write in zip(files.items(), (write_conv, write_wide), strict=True):
        if not path.is_file():
            click.echo(f"writing {name}: {path}", err=True)
            write(path)
    return files


def _rows(files: Mapping[str, Path], given: Sequence[tuple[str, str]], *, sampled: bool) -> dict[str, int]:
    rows = {**dict.fromkeys(files, 1), **(_SAMPLE_ROWS if sampled else {})}
    for name, text in given:
        if name not in files or not text.isdigit() or not int(text):
            raise click.ClickException(
                f"--rows {name}={text}: name a model ({', '.join(files)}) and a number from 1 on"
            )
        rows[name] = int(text)
    return rows
