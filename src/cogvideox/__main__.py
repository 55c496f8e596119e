"""``python -m cogvideox`` and the ``cogvideox`` command."""

from cogvideox.cli import main

if __name__ == "__main__":
    main()
