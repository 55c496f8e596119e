"""Parquet: rows of light columns, a group of rows at a time; a damaged page loses its rows and no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cogvideox.clip_folders.columns import Columns, TableRow, check_names, line_label, row_of
from cogvideox.errors import ConfigError, DependencyError, MediaError
from cogvideox.files import open_regular, shown

MOST_BYTES = 1 << 50  # no limit of ours: only what is asked for is read
BATCH = 256  # rows that one damaged page may take with it before the page


def parquet_errors() -> tuple[type[Exception], ...]:
    """What pyarrow raises for damaged tables; names that are not UTF-8 come as UnicodeDecodeError."""
    from pyarrow import ArrowException

    return (ArrowException, OSError, UnicodeDecodeError)


def open_parquet(file: Path, root: Path | None) -> Any:
    """A ``pyarrow.parquet.ParquetFile`` of a plain file that lies in ``root``. Raises DependencyError, MediaError."""
    try:
        from pyarrow import parquet
    except ImportError:
        needs = "reading Parquet needs pyarrow; pip install 'cogvideox[data]'"
        raise DependencyError(f"{file}: {needs}") from None
    with open_regular(file, root=root, most=MOST_BYTES, error=MediaError):
        pass
    try:
        table = parquet.ParquetFile(
            file, thrift_string_size_limit=64 << 20, thrift_container_size_limit=1 << 20
        )
        _ = table.schema_arrow  # made when it is first asked for, and damaged ones cannot be
        return table
    except parquet_errors() as error:
        why = " ".join(str(error).split())[:120]
        raise MediaError(f"{shown(str(file))}: not a Parquet table ({why})") from None


def parquet_names(file: Path, root: Path | None, where: str) -> list[str]:
    """The columns that hold no bytes. Raises ConfigError."""
    return light_columns(_caption_table(file, root, where))


def _caption_table(file: Path, root: Path | None, where: str) -> Any:
    try:
        return open_parquet(file, root)
    except MediaError as error:
        raise ConfigError(f"{where}: {str(error).partition(': ')[2]}") from None


def light_columns(table: Any) -> list[str]:
    """Names of the columns of an open table whose values are text, numbers or lists of text."""
    from pyarrow import types

    def light(kind: Any) -> bool:
        if types.is_list(kind):
            kind = kind.value_type
        plain = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_null)
        return any(check(kind) for check in plain)

    return [field.name for field in table.schema_arrow if light(field.type)]


def parquet_rows(file: Path, root: Path | None, where: str, columns: Columns) -> Iterator[TableRow]:
    """The rows of a table of files and captions. Raises ConfigError."""
    table = _caption_table(file, root, where)
    names = light_columns(table)
    check_names(names, columns, where)
    wanted = [name for group in columns.among(names) for name in group]
    for number, values in rows_of(table, list(dict.fromkeys(wanted))):
        if isinstance(values, str):
            yield TableRow(where=f"{where} {values}", problem="damaged; download the table again")
        else:
            yield from row_of(values, line_label(where, "row", number), columns)


def rows_of(table: Any, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(number, values) of every row of an open table; for rows that are damaged one (number, 'rows 5 to 9')."""
    first, damage = 0, parquet_errors()
    for group in range(table.num_row_groups):
        count = table.metadata.row_group(group).num_rows
        read = 0
        try:
            for batch in table.iter_batches(BATCH, row_groups=[group], columns=list(columns)):
                for values in batch.to_pylist():
                    yield first + read, values
                    read += 1
        except damage:
            yield first + read, f"rows {first + read} to {first + count - 1}"
        first += count
