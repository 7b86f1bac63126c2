"""One model with a task: its tokenizer, and what its files say. Its methods are for a thread: they let go of the
interpreter's lock while the library works, a few texts at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from batchwright_worker.api.model import Model
from batchwright_worker.api.text_task import TextTask
from batchwright_worker.language.errors import TOO_LONG, BadCall
from batchwright_worker.language.model_files import TaskFilesError, TextFiles, read_files
from batchwright_worker.language.rows import Tokens
from batchwright_worker.tokenization.tokenizer_file import LoadedTokenizer, TokenizerError, load_tokenizer

Pair = tuple[str, str]
_AT_ONCE: Final = 32
"""Texts whose tokens become Python objects in one go: about half a millisecond of the interpreter's lock."""
_CHARACTERS_PER_TOKEN: Final = 64
"""Of a text that is longer than so many for each token that it may have, the beginning is tried first."""


@dataclass(frozen=True, slots=True)
class TextModel:
    """`tokenizer` cuts texts where the task says so."""

    name: str
    task: TextTask
    files: TextFiles
    tokenizer: LoadedTokenizer

    @classmethod
    def of(cls, model: Model, path: Path) -> TextModel:
        """Of a model with a task whose artifact is at this path. Raises TaskFilesError."""
        assert model.task is not None
        files = read_files(path, model.task)
        cut = files.max_tokens if model.task.too_long == "Truncate" else None
        try:
            return cls(model.name, model.task, files, load_tokenizer(str(files.tokenizer), cut))
        except TokenizerError as error:
            raise TaskFilesError(f"task: {error}") from error

    @property
    def max_tokens(self) -> int:
        return self.files.max_tokens

    def tokens_of_texts(self, texts: Sequence[str], param: str, prompt: str | None = None) -> list[Tokens]:
        """`prompt` stands before each; None: the files' own. Raises BadCall, which says which text of `param`."""
        before = self.files.default_prompt if prompt is None else prompt
        return self._encoded([self._prepared(before + text) for text in texts], param)

    def tokens_of_pairs(self, query: str, documents: Sequence[str]) -> list[Tokens]:
        """Raises BadCall."""
        query = self._prepared(query)
        return self._encoded([(query, self._prepared(each)) for each in documents], "documents")

    def tokens_of_ids(self, given: Sequence[Sequence[int]], param: str) -> list[Tokens]:
        """Of numbers that a caller has made with this tokenizer, special ones included. Raises BadCall."""
        size = self.tokenizer.tokenizer.get_vocab_size()
        found = []
        for number, ids in enumerate(given):
            if min(ids) < 0 or max(ids) >= size:
                raise BadCall(
                    f"{param}[{number}] has a token that model {self.name} does not have: 0 to {size - 1}", param=param
                )
            if len(ids) > self.max_tokens and not self._cuts:
                raise self._too_long(param, number, len(ids))
            found.append(Tokens(ids[: self.max_tokens]))
        return found

    def shortened(self, documents: Sequence[str], most: int) -> list[str]:
        """Each as far as its first `most` tokens go."""
        most = min(most, self.max_tokens + 1)  # what is longer is told from what fits, and no more
        texts = [self._beginning(text, most + 1) for text in documents]
        return [
            text[: encoding.offsets[most - 1][1]] if len(encoding.ids) > most else text
            for text, encoding in zip(texts, self._encodings(texts, special=False), strict=True)
        ]

    def prompt(self, *names: str) -> str:
        """The first of these prompts that the files have, else their own."""
        return next(
            (self.files.prompts[name] for name in names if name in self.files.prompts), self.files.default_prompt
        )

    def _encoded(self, texts: Sequence[str] | Sequence[Pair], param: str) -> list[Tokens]:
        found = []
        for number, encoding in enumerate(self._encodings(texts, special=True)):
            ids = encoding.ids
            if len(ids) > self.max_tokens:
                raise self._too_long(param, number, len(ids))
            if not ids:
                raise BadCall(f"{param}[{number}] has no tokens; leave it out", param=param)
            found.append(Tokens(ids, encoding.type_ids))
        return found

    def _encodings(self, texts: Sequence[str] | Sequence[Pair], *, special: bool) -> Iterator[Any]:
        for first in range(0, len(texts), _AT_ONCE):
            yield from self.tokenizer.tokenizer.encode_batch(
                list(texts[first : first + _AT_ONCE]), add_special_tokens=special
            )

    def _prepared(self, text: str) -> str:
        text = text.lower() if self.files.lower else text
        return self._beginning(text, self.max_tokens if self._cuts else self.max_tokens + 1)

    @property
    def _cuts(self) -> bool:
        return self.task.too_long == "Truncate"

    def _beginning(self, text: str, tokens: int) -> str:
        """Of a text that is far too long only the beginning, where that alone has so many tokens: those there do not
        depend on what follows, and megabytes would take seconds."""
        likely = _CHARACTERS_PER_TOKEN * tokens
        if len(text) <= likely:
            return text
        [encoding] = self.tokenizer.tokenizer.encode_batch([text[:likely]], add_special_tokens=False)
        enough = min(tokens, self.max_tokens) if self._cuts else tokens
        return text[:likely] if len(encoding.ids) >= enough else text

    def _too_long(self, param: str, number: int, tokens: int) -> BadCall:
        return BadCall(
            f"{param}[{number}] has {tokens} tokens or more, with the special ones; model {self.name} takes at most "
            f"{self.max_tokens}: send shorter texts, or write task.tooLong: Truncate in the manifest",
            param=param,
            code=TOO_LONG,
        )
