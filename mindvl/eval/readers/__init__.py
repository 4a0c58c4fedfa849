"""Files that benchmarks come in, row by row: VLMEvalKit's TSV, Hugging Face's parquet, DocVQA's JSON beside pictures.

    for row in read_rows(Path("DocVQA_VAL.tsv")):
        row.text("question"), row.texts("answers", "answer"), row.images

Nothing is fetched and no picture is decoded: a picture that does not open costs its own question, not the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mindvl.eval.readers.documents import read_documents
from mindvl.eval.readers.parquet import read_parquet
from mindvl.eval.readers.rows import Row
from mindvl.eval.readers.tsv import read_tsv

__all__ = ["Row", "read_documents", "read_parquet", "read_rows", "read_tsv"]


def read_rows(
    path: Path, *, split: str | None = None, subfolder: str | None = None, image_columns: Sequence[str] = ("image",)
) -> Iterator[Row]:
    """Rows of a file, or of a folder with parquet files or one TSV file; the layout is told by the name.

    Args:
        split: which of a parquet folder's splits; other files hold one.
        subfolder: where a repository keeps several data sets, the folder of this one; used if it is there.
        image_columns: columns of parquet files that hold pictures.

    Raises:
        ValueError: for a path of another kind, and for what the readers refuse, by file, row and key.
    """
    if path.is_dir():
        tables = sorted(path.glob("*.tsv"))
        if len(tables) > 1:
            raise ValueError(f"{path} holds {len(tables)} TSV files; give one of: {', '.join(t.name for t in tables)}")
        if not tables:
            return read_parquet(path, split=split, subfolder=subfolder, image_columns=image_columns)
        path = tables[0]
    if not path.is_file():
        raise ValueError(f"{path} is not there")
    if path.suffix == ".tsv":
        return read_tsv(path)
    if path.suffix == ".json":
        return read_documents(path)
    if path.suffix == ".parquet":
        return read_parquet(path, image_columns=image_columns)
    raise ValueError(f"{path} is none of .tsv, .json, .parquet or a folder of parquet files")
