"""A model folder of transformers in this process, in the place of a server: no network, no torchvision, no pickle."""

from __future__ import annotations

import hashlib
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

from cogvideox.chat.question import Answer, ChatFailure, LanguageModel, Question
from cogvideox.chat.question import Image as Picture
from cogvideox.chat.server import Server, ServerConfig
from cogvideox.errors import CheckpointError, ConfigError, DependencyError


def language_model(ask: str, model: str | None = None) -> LanguageModel:
    """The model behind an address, called ``model`` there, or the one in a folder of this machine.

    Raises ConfigError, CheckpointError.
    """
    if Path(ask).is_dir():
        return LocalModel(Path(ask))
    if model is None:
        raise ConfigError(f"{ask}: which model of that server? name it")
    return Server(ServerConfig(url=ask, model=model))


class LocalModel:
    """A LanguageModel in a folder: one that sees pictures, or one that only reads.

    It takes the likeliest word each time, so an answer depends on the question and the weights alone; ``temperature``,
    ``top_p`` and ``schema`` are for servers. One question is answered at a time.
    """

    def __init__(self, folder: Path, device: str | None = None) -> None:
        self.folder, self._device, self._lock = folder, device, threading.Lock()
        weights = sorted(folder.glob("*.safetensors"))
        if not weights or not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{folder}: holds no config.json with *.safetensors; give a model folder of transformers"
            )
        digest = hashlib.sha256()
        for file in weights:
            with open(file, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        self.name = f"{folder.resolve().name}:{digest.hexdigest()[:12]}"

    def answer(self, question: Question) -> Answer:
        """One attempt. Raises ChatFailure for pictures it cannot see and questions that do not fit."""
        with self._lock:
            return self._answer(question)

    @cached_property
    def takes_images(self) -> bool:
        """Whether it takes pictures."""
        config = self._read("AutoConfig")
        from transformers import AutoModelForImageTextToText

        return type(config) in AutoModelForImageTextToText._model_mapping

    def _answer(self, question: Question) -> Answer:
        import torch

        reader, model = self._loaded
        if question.images and not self.takes_images:
            raise ChatFailure("rejected", f"{self.folder}: only reads, and was shown pictures")
        template = dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        tokens = reader.apply_chat_template(self._messages(question), **template).to(model.device)
        asked = tokens["input_ids"].shape[1]
        try:
            with torch.inference_mode():
                out = model.generate(**tokens, max_new_tokens=question.max_tokens, do_sample=False)
        except (RuntimeError, IndexError) as error:  # out of memory, more words than it has places for
            raise ChatFailure("rejected", " ".join(str(error).split())[:200]) from None
        found = out[0, asked:]
        ends = model.generation_config.eos_token_id
        ended = len(found) and int(found[-1]) in (ends if isinstance(ends, list) else [ends])
        text = reader.decode(found, skip_special_tokens=True)
        return Answer(text, self.name, "stop" if ended else "length", asked, len(found))

    def _messages(self, question: Question) -> list[dict[str, Any]]:
        """The conversation as chat templates take it: a list of parts where pictures are seen, else plain text."""

        def content(*items: str | Picture) -> Any:
            if not self.takes_images:
                return "\n".join(item for item in items if isinstance(item, str))
            return [_message_part(item) for item in items]

        messages = [{"role": "system", "content": content(question.system)}] if question.system else []
        for ask, reply in question.examples:
            messages += [
                {"role": "user", "content": content(ask)},
                {"role": "assistant", "content": content(reply)},
            ]
        return [*messages, {"role": "user", "content": content(*question.content)}]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch

        reader = self._read("AutoProcessor" if self.takes_images else "AutoTokenizer")
        if not getattr(reader, "chat_template", None):
            raise CheckpointError(
                f"{self.folder}: has no chat template; give a model that was tuned to answer"
            )
        kind = "AutoModelForImageTextToText" if self.takes_images else "AutoModelForCausalLM"
        model = self._read(kind, use_safetensors=True, dtype="auto").eval()
        return reader, model.to(self._device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def _read(self, kind: str, **settings: Any) -> Any:
        try:
            import transformers
        except ImportError:
            raise DependencyError("transformers is not installed; install cogvideox[transformers]") from None
        try:
            return getattr(transformers, kind).from_pretrained(
                str(self.folder), local_files_only=True, trust_remote_code=False, **settings
            )
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{self.folder}: cannot be read by transformers ({reason})") from None


def _message_part(item: str | Picture) -> dict[str, Any]:
    if isinstance(item, str):
        return {"type": "text", "text": item}
    from PIL import Image

    return {"type": "image", "image": Image.fromarray(item.pixels())}
