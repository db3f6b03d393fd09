"""Reads a lake with pyarrow and DuckDB and compares it with the rows that were written. Usage: readers.py LAKE ROWS"""

import decimal
import glob
import json
import sys
from datetime import datetime, timedelta, timezone

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

lake, rows = sys.argv[1:]
want = {(r["_position"], r["_index"]): r for r in map(json.loads, open(rows, encoding="utf-8"))}
epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)


def plain(name, v):
    """A value as the rows have it."""
    if isinstance(v, datetime):
        return str((v.astimezone(timezone.utc) - epoch) // timedelta(microseconds=1))
    if isinstance(v, decimal.Decimal):
        return str(int(v.scaleb(-v.as_tuple().exponent)))
    if isinstance(v, bool) or v is None:
        return v
    if isinstance(v, int) and name != "_index":
        return str(v)
    return v


def compare(reader, table):
    seen = set()
    for row in table:
        hive = {k: row.pop(k) for k in ("date", "hour", "country")}
        key = (row["_position"], row["_index"])
        assert key not in seen, f"{reader}: {key} twice"
        seen.add(key)
        got = {k: plain(k, v) for k, v in row.items()}
        assert got == want[key], f"{reader}: row {key}:\n{got}\nwant\n{want[key]}"
        when = epoch + timedelta(microseconds=int(want[key]["event_time"]))
        assert str(hive["date"]) == f"{when:%Y-%m-%d}" and int(hive["hour"]) == when.hour, f"{reader}: {hive} for {when}"
        assert hive["country"] == want[key]["_country"], f"{reader}: folder {hive} for {want[key]['_country']}"
    assert len(seen) == len(want), f"{reader}: {len(seen)} rows of {len(want)}"
    print(f"{reader}: {len(seen)} rows are the same")


files = sorted(glob.glob(lake + "/date=*/**/*.parquet", recursive=True))
schema = pq.read_schema(files[0])
types = {f.name: f.type for f in schema}
assert types["event_time"] == pa.timestamp("us", tz="UTC"), types
assert types["x decimal(9,2)"] == pa.decimal128(9, 2) and types["x decimal(18,4)"] == pa.decimal128(18, 4), types
assert types["x list"] == pa.list_(pa.field("element", pa.string())), types["x list"]
assert types["x json"] == pa.string() and types["properties"] == pa.string() and types["price"] == pa.float64(), types
assert not schema.field("_position").nullable and schema.field("event_id").nullable

# Hive partitioning: the column of the path beside the column of the file.
partitioning = ds.partitioning(pa.schema([("date", pa.string()), ("hour", pa.string()), ("country", pa.string())]), flavor="hive")
dataset = ds.dataset(lake, format="parquet", partitioning=partitioning)
compare("pyarrow", dataset.to_table().to_pylist())
assert pq.ParquetDataset(lake).read().num_rows == len(want)  # with types guessed from the path

for path in files:  # page checksums
    pq.ParquetFile(path, page_checksum_verification=True).read()

# Statistics: bounds that hold, and that let a reader skip row groups.
groups = pruned = 0
for path in files:
    f = pq.ParquetFile(path)
    assert f.metadata.created_by.startswith("millrace version"), f.metadata.created_by
    assert f.metadata.metadata[b"millrace.provenance"]
    for g in range(f.metadata.num_row_groups):
        groups += 1
        table = f.read_row_group(g)
        for c in range(f.metadata.num_columns):
            column = f.metadata.row_group(g).column(c)
            name, stats = column.path_in_schema, column.statistics
            assert stats is not None, name
            if "." in name:
                continue
            values = [v for v in table.column(name).to_pylist() if v is not None]
            assert stats.null_count == table.num_rows - len(values), name
            if name in ("x json", "properties") or not values:
                assert not stats.has_min_max, name
                continue
            assert stats.has_min_max, name
            low, high = stats.min, stats.max
            if isinstance(low, datetime) and low.tzinfo is None:
                low, high = low.replace(tzinfo=timezone.utc), high.replace(tzinfo=timezone.utc)
            if isinstance(values[0], decimal.Decimal) and not isinstance(low, decimal.Decimal):
                continue
            assert low == min(values) and high == max(values), (name, low, min(values), high, max(values))
assert groups > len(files), "no file has two row groups"

con = duckdb.connect()
con.execute("SET TimeZone = 'UTC'")
source = f"read_parquet('{lake}/**/*.parquet', hive_partitioning = true, hive_types_autocast = false)"
cursor = con.execute(f"SELECT * FROM {source}")
names = [d[0] for d in cursor.description]
compare("duckdb", (dict(zip(names, row)) for row in cursor.fetchall()))
kinds = dict(con.execute(f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {source})").fetchall())
assert kinds["event_time"] == "TIMESTAMP WITH TIME ZONE" and kinds["x decimal(9,2)"] == "DECIMAL(9,2)" and kinds["x list"] == "VARCHAR[]", kinds
position = sorted(want)[len(want) // 2][0]
assert con.execute(f"SELECT count(*) FROM {source} WHERE _position = '{position}'").fetchone() == (1,)
least = con.execute(f"SELECT count(*) FROM {source} WHERE \"x int\" > 25000000000000").fetchone()[0]
assert least == sum(1 for r in want.values() if r["x int"] and int(r["x int"]) > 25000000000000)
meta = con.execute(f"SELECT count(*), count(stats_min_value) FROM parquet_metadata('{lake}/**/*.parquet') WHERE path_in_schema = '_position'").fetchone()
assert meta == (groups, groups), meta
print(f"{len(files)} files, {groups} row groups: types, partitions, statistics and page checksums hold")
