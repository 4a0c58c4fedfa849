"""Writers of small files in the layouts that benchmarks come in."""

import base64
import csv

import pytest


@pytest.fixture
def write_tsv(tmp_path):
    """A table as VLMEvalKit keeps it; pictures given as bytes become base64."""

    def write(name: str, rows: list[dict]):
        path = tmp_path / f"{name}.tsv"
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, delimiter="\t")
            table.writerow(columns)
            for row in rows:
                table.writerow([as_field(row.get(column, "")) for column in columns])
        return path

    return write


def as_field(value) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return str([as_field(one) for one in value])
    return str(value)


@pytest.fixture
def write_parquet(tmp_path):
    """A parquet file as the hub keeps it; pictures given as bytes become {"bytes", "path"}."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def write(name: str, rows: list[dict]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = [{k: {"bytes": v, "path": None} if isinstance(v, bytes) else v for k, v in row.items()} for row in rows]
        parquet.write_table(arrow.Table.from_pylist(table), path)
        return path

    return write
