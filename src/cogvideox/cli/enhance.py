"""--enhance: what is asked of a person's flags, and when the prompt is written out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.errors import ConfigError, PromptError
from cogvideox.progress import say

if TYPE_CHECKING:
    from cogvideox.generation.options import GenerateOptions

ENHANCE_HELP = "write the prompt out: rules, the address of an OpenAI-compatible server, or a model folder"
MODEL_HELP = "the model on that server; its key is read from OPENAI_API_KEY"


@dataclass(frozen=True)
class Enhance:
    """What the flags say. ``spec`` None: prompts stay as they are."""

    spec: str | None = None
    model: str | None = None

    def check(self) -> None:
        """Everything that is wrong with the flags, before any work. Raises ConfigError."""
        if self.spec is None:
            if self.model is not None:
                raise ConfigError(f"enhance-model {self.model!r}: has no effect without --enhance; give both")
            return
        from cogvideox.generation.prompt_enhance import enhancer

        enhancer(self.spec, self.model, world=False)

    @property
    def is_rules(self) -> bool:
        """Whether prompts are written out here, without asking anybody."""
        return self.spec == "rules"

    def apply(
        self, options: GenerateOptions, folder: Path, dry_run: bool = False, quiet: bool = False
    ) -> tuple[GenerateOptions, dict[str, Any] | None]:
        """The options with the prompt to use, and what the record says. Raises PromptError, ChatError.

        In a dry run no server is asked; ``quiet`` does not tell what was written.
        """
        if self.spec is None:
            return options, None
        if not options.prompt.strip():
            raise PromptError(
                "prompt: empty, so --enhance has nothing to write out; say what the video should show"
            )
        from cogvideox.checkpoints.record import read_record
        from cogvideox.generation.prompt_enhance import RULES, enhancer, record
        from cogvideox.parallel.mesh import is_launched

        if dry_run and self.spec != RULES:
            say(f"enhance: {self.spec} is not asked in a dry run; the prompt is shown as it was given")
            return options, None
        if self.spec != RULES and is_launched():
            raise ConfigError(
                f"enhance {self.spec}: several processes would be answered differently; use --enhance {RULES}"
            )
        write = enhancer(self.spec, self.model, world=(read_record(folder).preset or "").startswith("tiny"))
        enhanced = write(options.prompt)
        if not quiet:
            say(f"enhance: {enhanced}")
        told = record(options.prompt, enhanced, write.name)
        return options.model_copy(update={"prompt": enhanced}), told
