"""Ask a finished run's manifest questions, with DuckDB and with pandas (pip install duckdb pandas).

python examples/read_manifest.py runs/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb
import pandas as pd


def main(folder: str) -> None:
    manifest = Path(folder) / "manifest.parquet"

    print("Rows by outcome, with DuckDB:")
    query = "SELECT status, error_kind, count(*) FROM read_parquet(?) GROUP BY ALL ORDER BY ALL"
    for status, error_kind, count in duckdb.execute(query, [str(manifest)]).fetchall():
        print(f"  {count} {status}", error_kind or "")

    print("The first pictures, with pandas:")
    rows = pd.read_parquet(manifest)
    done = rows[rows["status"] == "ok"]
    for row in done.head(3).itertuples():
        print(f"  {row.prompt} (seed {row.seed}): {Path(folder) / str(row.file_name)}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
