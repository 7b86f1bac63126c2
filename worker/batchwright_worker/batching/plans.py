"""Plans that a model's tensors and its manifest allow, the likeliest first."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from batchwright_worker.inference.runtime import BatchPlan, TensorSpec

Specs = Sequence[TensorSpec]


def whole_plan(inputs: Specs, outputs: Specs, reason: str = "") -> BatchPlan:
    """Each request is a call of its own."""
    return BatchPlan(mode="Whole", inputs=tuple(map(whole, inputs)), outputs=tuple(map(whole, outputs)), reason=reason)


def rows_plans(inputs: Specs, outputs: Specs, found: Specs, *, outputs_open: bool) -> list[BatchPlan]:
    """Ways to read the first dimension of inputs as the batch; `found` are the model's own inputs. Where a spec says it
    (is `batched`), that one alone; else by the first dimensions: those that vary, or are equal, are the batch, and
    tensors without dimensions are not. Empty: there is none. `outputs_open`: nobody has said which outputs are batched,
    so all may be."""
    if outputs_open:
        outputs = [spec if spec.batched else replace(spec, shape=spec.shape[1:], batched=True) for spec in outputs]
    firsts = {spec.name: spec.full_shape[0] for spec in found if spec.full_shape}
    if declared := {spec.name for spec in inputs if spec.batched}:
        choices = [declared]
    else:
        # -1 sorts first: what varies is likelier the batch than what is fixed.
        by_size = [{name for name in firsts if firsts[name] == size} for size in sorted(set(firsts.values()))]
        choices = by_size if len(by_size) != 1 else [*by_size, *_one_less(inputs, by_size[0])]
        choices = [names for names in choices if all(spec.name in names or is_plain_setting(spec) for spec in inputs)]
    return [plan for names in choices if (plan := _plan(inputs, outputs, names, firsts)) is not None]


def is_plain_setting(spec: TensorSpec) -> bool:
    """May it be taken for a setting without a word in the manifest? Whole numbers of more than one may be a shape, axes
    or places, with which a model does something else each time; one alone is tried with several values."""
    return not spec.datatype.startswith(("INT", "UINT")) or all(size == 1 for size in spec.shape)


def _one_less(inputs: Specs, names: set[str]) -> list[set[str]]:
    """Where all inputs look alike one of them may be a setting all the same: the last ones first."""
    return [names - {spec.name} for spec in reversed(inputs) if spec.name in names] if len(names) > 1 else []


def _plan(inputs: Specs, outputs: Specs, batched: set[str], firsts: dict[str, int]) -> BatchPlan | None:
    fixed = {firsts.get(name, -1) for name in batched} - {-1}
    if len(fixed) > 1 or 0 in fixed:
        return None
    return BatchPlan(
        mode="Rows",
        inputs=tuple(_per_row(spec) if spec.name in batched else spec for spec in inputs),
        outputs=tuple(outputs),
        piece=max(fixed, default=0),
    )


def _per_row(spec: TensorSpec) -> TensorSpec:
    return spec if spec.batched or not spec.shape else replace(spec, shape=spec.shape[1:], batched=True)


def whole(spec: TensorSpec) -> TensorSpec:
    """A tensor as it is, without a batch dimension."""
    return replace(spec, shape=spec.full_shape, batched=False)
