"""Every place in ``src`` that deletes, renames or cuts off a file, each with the reason why nobody's work is lost.

A new place fails here until somebody has thought about it: it may touch only what this program can prove it made.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "cogvideox"

NAMES = {
    "rmtree", "unlink", "rmdir", "removedirs", "rename", "renames", "truncate", "ftruncate", "move", "exchange",
    "remove", "replace", "copytree",
}  # fmt: skip
ON_MODULES = {"remove": ("os",), "replace": ("os",), "move": ("shutil",), "copytree": ("shutil",)}
"""Names that lists, texts and configs have too: only these modules' own are meant, and ``Path.replace(target)``."""

PLACES: dict[str, tuple[int, str]] = {
    "generation/batch.py:run_batch": (1, "failures.json, after it was read as one of ours"),
    "checkpoints/shipped.py:_copied": (2, "parts of the package are copied into the new folder of atomic_folder"),
    "curation/pipeline.py:Pipeline.remove_cut_files": (2, "cut clips in our work folder, named by video and span"),
    "curation/run.py:_Curation.remove_stale": (1, "marks of shards in our work folder, by number"),
    "curation/outputs.py:OutputList.publish": (1, "a draft of ours; what it replaces must have a digest on our list"),
    "curation/outputs.py:OutputList.remove": (1, "a file whose digest is on our list"),
    "curation/outputs.py:OutputList.compact": (1, "the folder of drafts, if it is empty"),
    "engines.py:_seen_by_all": (1, "an empty mark with a random name that it has just made"),
    "generation/text_cache.py:TextCache._shrink": (1, "embeddings beyond its bound, by a name of ours"),
    "files/atomic.py:_clear": (3, "a workplace that carries the mark of its maker, which is dead or this process"),
    "files/atomic.py:_delete": (2, "what discard was given, where no workplace could be made"),
    "files/atomic.py:_publish": (4, "exchange of the new folder with the old, which was checked to be replaceable"),
    "files/atomic.py:_swept_one": (2, "a workplace whose mark says ours and whose maker is dead; its last step"),
    "files/atomic.py:discard": (1, "what its callers made: an old state, a damaged one"),
    "files/atomic.py:atomic_file": (1, "its own file becomes the target its caller answers for"),
    "files/lock.py:folder_lock": (3, "the lock that is held and whose text is ours, and the folder if it is empty"),
    "files/pidfile.py:_remove_empty": (2, "a mark of ours without a maker"),
    "files/pidfile.py:write": (2, "the mark and the folder it has just made"),
    "quantise.py:quantise": (1, "parts are copied into the new and empty folder of checkpoint_folder"),
    "rating/anonymize.py:_fill": (1, "a copy it is writing is filled up to a length"),
    "studio/folder.py:StudioFolder.held": (1, "the text of the lock file that it holds"),
    "training/checkpoint/saver.py:SampleLedger.__init__": (1, "lines beyond the state of a run it holds"),
    "training/checkpoint/writers.py:Writers.others": (1, "rank-N.json in the hidden folder of a state being written"),
    "training/checkpoint/writers.py:Writers.publish": (1, "rank-N.json in the hidden folder of a state being written"),
    "video/spool.py:frames_on_disk": (1, "a temporary file without a name that it has just made gets its length"),
    "video/video.py:Video.save": (1, "the record of the video that is overwritten, after it was read as ours"),
}  # fmt: skip


def deletions(path: Path, root: Path = PACKAGE) -> Counter[str]:
    """'file:Class.function' of each call that may delete or rename."""
    found: Counter[str] = Counter()

    def visit(node: ast.AST, inside: tuple[str, ...]) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = (*inside, node.name)
        if isinstance(node, ast.Call) and _deletes(node):
            found[f"{path.relative_to(root).as_posix()}:{'.'.join(inside) or 'module'}"] += 1
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), ())
    return found


def _deletes(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Name):
        return call.func.id in NAMES - set(ON_MODULES) - {"truncate"}
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in NAMES:
        return False
    name, owner = call.func.attr, call.func.value
    if name not in ON_MODULES:
        return True
    if isinstance(owner, ast.Name) and owner.id in ON_MODULES[name]:
        return True
    return (
        name == "replace" and len(call.args) == 1 and not call.keywords
    )  # Path.replace; str.replace takes two


def test_every_place_that_deletes_is_listed_with_its_reason():
    found: Counter[str] = Counter()
    for path in sorted(PACKAGE.rglob("*.py")):
        found += deletions(path)
    listed = {place: count for place, (count, _) in PLACES.items() if count}
    new = {place: count for place, count in found.items() if listed.get(place, 0) < count}
    gone = {place: count for place, count in listed.items() if found.get(place, 0) < count}
    assert not new, f"these delete or rename: prove that they touch only what we made, then list them: {new}"
    assert not gone, f"these no longer delete: take them off the list: {gone}"
    assert all(reason for count, reason in PLACES.values() if count)


def test_every_way_to_delete_is_seen(tmp_path):
    (tmp_path / "a.py").write_text(
        "def f(path, other):\n"
        "    shutil.rmtree(path); os.remove(path); os.unlink(path); path.unlink(); path.rmdir()\n"
        "    os.rename(path, other)\n"
        "    path.rename(other); path.replace(other); os.replace(path, other); shutil.move(path, other)\n"
        "    os.truncate(path, 0); os.ftruncate(3, 0); rmtree(path); unlink(path); os.removedirs(path)\n"
        "    'a'.replace('a', 'b'); [].remove(1); dataclasses.replace(path, x=1); replace(path, x=1)\n"
    )
    assert deletions(tmp_path / "a.py", tmp_path) == {"a.py:f": 15}
