"""Ask a language model that may see pictures: the one door to models of other people, with a stand-in that ships.

| file | what it does |
|---|---|
| ``question`` | ``Question``, ``Image``, ``Answer``, ``ChatFailure``; ``LanguageModel``, the protocol; ``Scripted`` |
| ``server`` | any OpenAI-compatible server, one attempt at a time |
| ``local`` | a model folder of transformers without a server; ``language_model``: an address or a folder |
| ``limits`` | back-off between attempts, budgets, the circuit breaker |
| ``cache`` | answers kept by content hash; transcripts, recorded and replayed |
| ``parse`` | the text of an answer to a value: JSON, or one plain paragraph without openings, refusals, repetition |
| ``ask`` | ``Chat``: many questions at once, each ends in exactly one outcome |
"""

from cogvideox.chat.ask import AskOutcome, Chat, ChatConfig
from cogvideox.chat.cache import Cache, Replay
from cogvideox.chat.local import LocalModel, language_model
from cogvideox.chat.parse import Cleaning, as_text, clean, json_reader
from cogvideox.chat.question import Answer, ChatFailure, Image, LanguageModel, Question, Scripted
from cogvideox.chat.server import Server, ServerConfig

__all__ = [
    "Answer", "AskOutcome", "Cache", "Chat", "ChatConfig", "ChatFailure", "Cleaning", "Image", "LanguageModel",
    "LocalModel", "Question", "Replay", "Scripted", "Server", "ServerConfig", "as_text", "clean", "json_reader",
    "language_model",
]  # fmt: skip
