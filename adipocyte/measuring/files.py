"""Tables on disk, written a field at a time, so that a plate of any size takes little memory."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from adipocyte.evaluation.cellprofiler.objects import Table
from adipocyte.system.files import replacing


class TableFile:
    """A table that grows. All that is added to it has the same columns."""

    def __init__(self, path: Path, is_csv: bool) -> None:
        self._path, self._is_csv = path, is_csv
        self._writer: parquet.ParquetWriter | csv.CSVWriter | None = None

    def append(self, same: Mapping[str, str | float], table: Table) -> None:
        """Add the rows of *table*, each with the values *same*."""
        n = len(next(iter(table.values())))
        columns = {name: np.full(n, value) for name, value in same.items()} | table
        self._write(pa.table({name: pa.array(values) for name, values in columns.items()}))

    def append_rows(self, rows: Sequence[Mapping[str, str | float]]) -> None:
        """Add *rows*, of which there is at least one."""
        self._write(pa.table({name: [row[name] for row in rows] for name in rows[0]}))

    def _write(self, rows: pa.Table) -> None:
        if self._writer is None:
            make = csv.CSVWriter if self._is_csv else parquet.ParquetWriter
            self._writer = make(self._path, rows.schema)
        self._writer.write_table(rows)

    def close(self) -> None:
        """Write what is held back."""
        if self._writer:
            self._writer.close()


@contextmanager
def table_file(path: Path) -> Generator[TableFile]:
    """A table in one file, Parquet or CSV by its suffix, written whole or not at all."""
    with replacing(path) as partial:
        file = TableFile(partial, path.suffix == ".csv")
        yield file
        file.close()
