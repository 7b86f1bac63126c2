"""Is the first dimension the batch? Found out by calls of the model with rows of different content.

Of rows it must hold that the answer of row i depends on row i alone: beside other rows, at another place, and alone. A
generator asks for calls and is sent their outcomes, so that whoever drives the model (a runtime process, or the client
of somebody's server) runs the same trials. What is not shown is not assumed: the plan is Whole then, and says why.

No clock: what is found is what callers see of the model (its shapes, whether it has rows), and must not be another one
on a slow machine. There is an end to the calls; a load whose trials take too long is ended by its limit, and says so.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from msgspec.structs import replace

from batchwright_worker.batching.answers import conformed
from batchwright_worker.batching.sameness import Sameness
from batchwright_worker.batching.samples import DECLARED, SampleError, Samples
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import (
    BatchMode,
    BatchPlan,
    Sample,
    TensorSpec,
    WarmUpTensor,
    WrongOutputs,
)

REMEDY: Final = "write batching.mode if you know it, or warmup.inputs that the model takes"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialCall:
    """A call to make: inputs as they are, of so many rows."""

    inputs: Mapping[str, Array]
    rows: int


Outcome = Mapping[str, Array] | Exception
"""What a call gave (`answers.named`), or what it raised."""
T = TypeVar("T")
Asking = Generator[TrialCall, Outcome, T]
"""Asks for calls, and returns something in the end."""
Trials = Asking[BatchPlan]


class RowsDependError(Exception):
    """This reading of the inputs is not one of independent rows; the message says how that showed."""


class UntestedError(RowsDependError):
    """It could not be tried; the message says why."""

    def __init__(self, why: str) -> None:
        super().__init__(f"could not be tested: {why}; {REMEDY}")


class _NotTakenError(Exception):
    """The model does not take this content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a model: the first of the `readings` that is one of independent rows, else `whole`; `mode` as
    the manifest says. `padding`: the size of variable dimensions to begin with, 0 for none."""

    readings: Sequence[BatchPlan]
    whole: BatchPlan
    mode: BatchMode | None = None
    declared: Sequence[WarmUpTensor] = ()
    padding: int = 0
    outputs_open: bool = True
    """The manifest declares no outputs: they are as the model gives them."""


class WrongDeclarationError(Exception):
    """The model gives another output than the manifest declares; the message says what."""


def find_plan(question: Question) -> Trials:
    """The answer. Raises RowsDependError where the manifest says Rows and the model showed otherwise, SampleError for
    declared content that is none, WrongDeclarationError."""
    reasons = list[RowsDependError]()
    for plan in question.readings if question.mode != "Whole" else ():
        trial = _Trial(plan=plan, samples=Samples(plan.inputs, question.declared), question=question)
        try:
            return (yield from trial.shown())
        except RowsDependError as depends:
            reasons.append(depends)
    if question.mode == "Rows":
        return untried(question, reasons)
    reason = str(reasons[0]) if reasons else question.whole.reason
    return (yield from _whole_tried(replace(question.whole, reason=reason), question))


def untried(question: Question, reasons: Sequence[RowsDependError]) -> BatchPlan:
    """What to do without a proof: as the manifest says, else Whole. Raises RowsDependError."""
    if question.mode != "Rows":
        return replace(question.whole, reason=str(reasons[0])) if reasons else question.whole
    for plan, reason in zip(question.readings, reasons, strict=False):
        if isinstance(reason, UntestedError):
            return replace(plan, reason=f"batched because the manifest says so; that {reason}")
    raise reasons[0] if reasons else RowsDependError("it has no input whose first dimension could be the batch")


def _whole_tried(plan: BatchPlan, question: Question) -> Trials:
    """The plan Whole, with a sample that the model takes, if one is found."""
    samples = Samples(plan.inputs, question.declared)
    for sample in samples.choices(question.padding):
        try:
            outcome = yield TrialCall(inputs=samples.rows(sample, [0]), rows=1)
        except SampleError:
            break
        if isinstance(outcome, WrongOutputs):
            raise WrongDeclarationError(str(outcome))
        if not isinstance(outcome, Exception):
            outputs = plan.outputs
            if question.outputs_open:
                outputs = tuple(_as_seen(spec, outcome) for spec in outputs)
            else:
                _check_declared(outputs, outcome, 1)
            return replace(plan, sample=sample, outputs=outputs)
    return plan


def _check_declared(outputs: Sequence[TensorSpec], outcome: Mapping[str, Array], rows: int) -> None:
    try:
        conformed(outcome, outputs, rows)
    except WrongOutputs as wrong:
        raise WrongDeclarationError(str(wrong)) from wrong


def _as_seen(spec: TensorSpec, *outcomes: Mapping[str, Array]) -> TensorSpec:
    """An output as the model has it: what its file says of the shape may be wrong, or nothing."""
    seen = [outcome[spec.name].shape[1 if spec.batched else 0 :] for outcome in outcomes]
    if any(len(shape) != len(spec.shape) for shape in seen):
        return replace(spec, shape=(-1,) * len(seen[0]))
    sizes = zip(spec.shape, *seen, strict=True)
    return replace(spec, shape=tuple(size if all(size == one for one in given) else -1 for size, *given in sizes))


@dataclass(slots=True, kw_only=True)
class _Trial:
    """One reading of the inputs, tried."""

    plan: BatchPlan
    samples: Samples
    question: Question
    batched: dict[str, bool] = field(default_factory=dict)
    """Per output: has it a batch dimension (else it is the same whatever the rows)?"""
    answers: dict[tuple[int, ...], Mapping[str, Array]] = field(default_factory=dict)

    def shown(self) -> Trials:
        """The plan with what was found of its outputs. Raises RowsDependError."""
        sample = yield from self._first_taken()
        seen, alone, telling, taken = list[Mapping[str, Array]](), "", False, 0
        for kind in self._kinds(sample):
            self.answers.clear()
            try:
                # What a setting is decides what the model does: then each kind is a model of its own.
                yield from self._independent(kind, briefly=kind != sample and not self.plan.unbatched_inputs)
            except _NotTakenError as refusal:
                if kind == sample:
                    # It took one row of this content, and does not take more at once: so it is given one at a time.
                    alone = yield from self._one_by_one(kind, refusal)
            else:
                taken += 1
            seen += self.answers.values()
            telling = telling or self._is_telling()
            if alone:
                break
        if not telling and not alone and self.plan.piece != 1:
            raise UntestedError(
                "its answers are the same whatever its rows are, so that no influence of one row on another could show"
            )
        if taken < 2 and not alone and self._has_modes():
            raise UntestedError("with another value of its settings it takes nothing that was tried")
        return self._found(sample, alone, seen)

    def _has_modes(self) -> bool:
        """Has it a setting that may be a choice between ways to work?"""
        settings = [spec for spec in self.plan.inputs if not spec.batched]
        made_up = self.samples.choices()[0].kind != DECLARED
        return made_up and any(spec.datatype.startswith(("BOOL", "INT", "UINT")) for spec in settings)

    def _kinds(self, sample: Sample) -> list[Sample]:
        others = [each for each in self.samples.choices(self.question.padding) if each.size == sample.size]
        return [sample, *(each for each in others if each != sample)]

    def _found(self, sample: Sample, reason: str, seen: Sequence[Mapping[str, Array]]) -> BatchPlan:
        outputs = tuple(
            _as_seen(
                spec
                if self.batched[spec.name] == spec.batched
                else replace(spec, shape=spec.full_shape, batched=False),
                *seen,
            )
            for spec in self.plan.outputs
        )
        plan = replace(self.plan, outputs=outputs, sample=sample, reason=reason, piece=1 if reason else self.plan.piece)
        apart = sorted(plan.unbatched_inputs)
        if apart and not reason:
            return replace(plan, reason=f"passed whole, without a batch dimension: {', '.join(apart)}")
        return plan

    # --- calls ---

    def _first_taken(self) -> Asking[Sample]:
        """A content that the model takes in a call of one row (or one piece)."""
        first, why = tuple(range(max(1, self.plan.piece))), ""
        for sample in self.samples.choices(self.question.padding):
            try:
                yield from self._answer(sample, first)
            except _NotTakenError as refusal:
                why = why or str(refusal)
            else:
                return sample
        raise UntestedError(f"it refuses what was tried, at first with: {why}")

    def _answer(self, sample: Sample, numbers: tuple[int, ...]) -> Asking[Mapping[str, Array]]:
        """The answer to the rows of these numbers. Raises _NotTakenError."""
        if numbers not in self.answers:
            try:
                inputs = self.samples.rows(sample, numbers)
            except SampleError as error:
                raise _NotTakenError(str(error)) from error
            outcome = yield TrialCall(inputs=inputs, rows=len(numbers))
            if isinstance(outcome, WrongOutputs):
                raise WrongDeclarationError(str(outcome))
            if isinstance(outcome, Exception):
                raise _NotTakenError(_first_line(outcome)) from outcome
            self._look_at_shapes(numbers, outcome)
            if not self.question.outputs_open:
                _check_declared([spec for spec in self.plan.outputs if self.batched[spec.name]], outcome, len(numbers))
            self.answers[numbers] = outcome
        return self.answers[numbers]

    def _look_at_shapes(self, numbers: tuple[int, ...], outcome: Mapping[str, Array]) -> None:
        """Each output follows the rows in its first dimension, or is the same whatever the rows are."""
        rows = len(numbers)
        for spec in self.plan.outputs:
            shape = outcome[spec.name].shape
            follows = bool(shape) and shape[0] == rows
            if self.batched.setdefault(spec.name, spec.batched and follows) and not follows:
                raise RowsDependError(
                    f"output {spec.name!r} has the shape {list(shape)} for {rows} rows of input, so its first "
                    "dimension is not the batch"
                )
        if not any(self.batched.values()):
            name, array = next(iter(outcome.items()))
            raise RowsDependError(
                f"output {name!r} has the shape {list(array.shape)} for {rows} "
                f"{'row' if rows == 1 else 'rows'} of input, so its first dimension is not the batch"
            )

    # --- what must hold ---

    def _independent(self, sample: Sample, *, briefly: bool) -> Asking[None]:
        """Raises RowsDependError, or _NotTakenError for content that the model refuses. `briefly`: only whether a row's
        answer changes with the others, since places and sizes were tried with other content."""
        piece = self.plan.piece
        if piece == 1:
            yield from self._run_all(sample, [(0,), (1,), (2,)])
            self._compare_whole([((0,), (1,)), ((1,), (2,))])
            return
        if piece:
            yield from self._piece_independent(sample, tuple(range(piece)))
            return
        yield from self._run_all(sample, [*([] if briefly else [(0,), (1, 2, 0)]), (0, 1), (0, 2), (2, 1)])
        self._compare_whole([((0, 1), (2, 1))])
        yield from self._compare(sample, (0, 1), (0, 2), [(0, 0)], Sameness.EXACT, "changes with the row behind it")
        yield from self._compare(sample, (0, 1), (2, 1), [(1, 1)], Sameness.EXACT, "changes with the row before it")
        place = "changes with its place in the batch"
        yield from self._compare(sample, (0, 2), (2, 1), [(1, 0)], Sameness.CLOSE, place)
        if briefly:
            return
        self._compare_whole([((0,), (0, 1)), ((0, 1), (1, 2, 0))])
        yield from self._compare(sample, (0,), (0, 1), [(0, 0)], Sameness.CLOSE, "is another one alone")
        yield from self._compare(sample, (0, 2), (1, 2, 0), [(0, 2), (1, 1)], Sameness.CLOSE, place)
        yield from self._compare(sample, (0, 1), (1, 2, 0), [(0, 2), (1, 0)], Sameness.CLOSE, place)

    def _piece_independent(self, sample: Sample, numbers: tuple[int, ...]) -> Asking[None]:
        """The same for a model that takes exactly so many rows."""
        rows = len(numbers)
        last, first, turned = (*numbers[:-1], rows), (rows, *numbers[1:]), numbers[::-1]
        yield from self._run_all(sample, [numbers, last, first, turned])
        self._compare_whole([(numbers, last), (numbers, first)])
        kept = [(row, row) for row in range(rows)]
        yield from self._compare(sample, numbers, last, kept[:-1], Sameness.EXACT, "changes with a row behind it")
        yield from self._compare(sample, numbers, first, kept[1:], Sameness.EXACT, "changes with a row before it")
        mirrored = [(row, rows - 1 - row) for row in range(rows)]
        yield from self._compare(
            sample, numbers, turned, mirrored, Sameness.CLOSE, "changes with its place in the batch"
        )

    def _one_by_one(self, sample: Sample, refusal: _NotTakenError) -> Asking[str]:
        """Rows that each run alone cannot influence each other. The reason to do so; raises RowsDependError. Not beside
        inputs that are passed whole: what the model refuses may be that these are for one row."""
        if self.plan.piece or any(spec.shape for spec in self.plan.inputs if not spec.batched):
            raise UntestedError(f"it does not take several rows at once: {refusal}")
        try:
            yield from self._run_all(sample, [(0,), (1,), (2,)])
        except _NotTakenError as single:
            raise UntestedError(str(single)) from single
        self._compare_whole([((0,), (1,)), ((1,), (2,))])
        return f"it runs row by row, because it does not take several at once: {refusal}"

    def _run_all(self, sample: Sample, calls: Sequence[tuple[int, ...]]) -> Asking[None]:
        for numbers in calls:
            yield from self._answer(sample, numbers)

    def _compare(
        self,
        sample: Sample,
        one: tuple[int, ...],
        other: tuple[int, ...],
        places: Sequence[tuple[int, int]],
        sameness: Sameness,
        how: str,
    ) -> Asking[None]:
        """The answers of rows at these places in two calls are the same."""
        for spec in self.plan.outputs:
            if not self.batched[spec.name]:
                continue
            first, second = self.answers[one][spec.name], self.answers[other][spec.name]
            left, right = [first[a : a + 1] for a, _ in places], [second[b : b + 1] for _, b in places]
            if (differs := sameness.of(left, right)) is None:
                continue
            yield from self._check_repeats(sample, one, spec.name)
            raise RowsDependError(f"the answer of a row in output {spec.name!r} {how} ({differs})")

    def _check_repeats(self, sample: Sample, numbers: tuple[int, ...], output: str) -> Asking[None]:
        before = self.answers.pop(numbers)[output]
        after = (yield from self._answer(sample, numbers))[output]
        if Sameness.EXACT.of([before], [after]) is not None:
            raise UntestedError(f"output {output!r} is another one each time, for equal inputs")

    def _compare_whole(self, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
        """Outputs without a batch dimension are the same whatever the rows are."""
        for spec in self.plan.outputs:
            if self.batched[spec.name]:
                continue
            for one, other in pairs:
                first, second = self.answers[one][spec.name], self.answers[other][spec.name]
                if Sameness.EXACT.of([first], [second]) is not None:
                    raise RowsDependError(
                        f"output {spec.name!r} has no batch dimension (its shape is {list(first.shape)} for "
                        f"{len(one)} of {len(one)} rows) and depends on the rows"
                    )

    def _is_telling(self) -> bool:
        """Do the answers of different rows differ at all?"""
        for numbers, answer in self.answers.items():
            if len(numbers) < 2:
                continue
            for spec in self.plan.outputs:
                array = answer[spec.name]
                if self.batched[spec.name] and Sameness.EXACT.of([array[:1]], [array[-1:]]) is not None:
                    return True
        return False


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    return line if len(line) <= 300 else line[:297] + "..."
