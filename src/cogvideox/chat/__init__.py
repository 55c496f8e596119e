"""Ask a (vision-)language model: the one door to those of other people, with a stand-in that ships.

question.py   Question, Image, Answer: what is said, as values with a content hash; LanguageModel, the protocol
failure.py    ChatFailure: every way an answer can fail to come, and whether trying again may help
local.py      LocalModel: a model folder of transformers, without a server; language_model: an address or a folder
server.py     Server: any OpenAI-compatible server, one attempt at a time
pace.py       waiting, budgets and the circuit breaker
keep.py       answers kept by content hash; transcripts, recorded and replayed
reading.py    text of an answer to a value, or a reason why it cannot be used
clean.py      answers that are to be one plain paragraph: openings, refusals, repetition, length
asking.py     Chat: many questions at once; each ends in exactly one outcome
scripted.py   Scripted: answers from a function, for work without a network
"""

from cogvideox.chat.asking import AskOutcome, Chat, ChatConfig
from cogvideox.chat.clean import Cleaning, clean
from cogvideox.chat.failure import ChatFailure
from cogvideox.chat.keep import Cache, Replay
from cogvideox.chat.local import LocalModel, language_model
from cogvideox.chat.question import Answer, Image, LanguageModel, Question
from cogvideox.chat.reading import as_text, json_reader
from cogvideox.chat.scripted import Scripted
from cogvideox.chat.server import Server, ServerConfig

__all__ = [
    "Answer",
    "Cache",
    "Chat",
    "ChatConfig",
    "ChatFailure",
    "Cleaning",
    "Image",
    "LanguageModel",
    "LocalModel",
    "AskOutcome",
    "Question",
    "Replay",
    "Scripted",
    "Server",
    "ServerConfig",
    "as_text",
    "clean",
    "json_reader",
    "language_model",
]
