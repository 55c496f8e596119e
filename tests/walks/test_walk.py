"""Every part of the walk works with every other, in the smallest amounts; `make walk` asserts what comes out."""

from walks.walk import Scale, walk


def test_the_whole_system_goes_through(tmp_path):
    found = walk(tmp_path, Scale(scenes=1, stills=1, vae_steps=2, low_steps=1, high_steps=1, steps=2))
    assert 0 <= found["facts"] <= 1 and len(found["digest"]) == 64
    assert (tmp_path / "transformer" / "lineage.json").is_file()
