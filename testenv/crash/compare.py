"""Compares what went in with what came out, by readers that are not ours: csv and json of Python, pyarrow for the lake.

compare.py csv  LAKE DEAD FILE...   input: Online Retail CSV, plain or gzip
compare.py json LAKE DEAD FILE...   input: JSON lines
compare.py log  LOG  DEAD FILE...   input: JSON lines; a file of the messages that readers of a topic see in place of the lake
compare.py same LAKE LAKE...        no input: the lakes must hold the same rows, but for where and when they were read

For the first three every input row must stand exactly once in the lake or in the dead letters, and nothing else may. Prints what differs.
"""
import collections, csv, datetime, glob, gzip, io, json, os, sys
import pyarrow.parquet as pq


def lines(name):
    data = open(name, "rb").read()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def visible(folder, end):
    for path, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if f[0] not in "_."]
        yield from (os.path.join(path, n) for n in names if n.endswith(end) and n[0] not in "_.")


def lake(folder, columns):
    for name in visible(folder, ".parquet"):
        table = pq.ParquetFile(name).read(columns)
        yield from zip(*(table[c].to_pylist() for c in columns))


def dead(folder):
    for name in visible(folder, ".jsonl"):
        for line in open(name, encoding="utf-8"):
            letter = json.loads(line)
            if "provenance" not in letter:
                yield letter["value"]


def time(text):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.timezone.utc)


def csv_key(row):
    """The eight fields of a row as the pipeline must store them."""
    invoice, item, description, quantity, when, price, customer, country = row
    return (invoice, item, description, int(quantity), time(when), float(price), customer or None, country)


def csv_input(names):
    for name in names:
        text = lines(name).decode("utf-8")
        raw = text.splitlines()[1:]
        for line, row in zip(raw, csv.reader(io.StringIO("\n".join(raw)))):
            try:
                yield csv_key(row)
            except ValueError:
                yield line  # goes to the dead letters as it is


CSV_COLUMNS = ["session_id", "item_id", "description", "quantity", "event_time", "price", "user_id", "country"]


def json_input(names):
    for name in names:
        for line in lines(name).decode("utf-8").splitlines():
            try:
                yield json.loads(line)["event_id"]
            except ValueError:
                yield line


def whole(folder):
    """All rows, but for the columns that say which log a row came from and when that took it."""
    names = None
    rows = collections.Counter()
    for name in visible(folder, ".parquet"):
        table = pq.ParquetFile(name).read()
        columns = sorted(c for c in table.column_names if not c.startswith("_") and c != "received_at")
        names = names or columns
        assert names == columns, (names, columns)
        rows.update(repr(row) for row in zip(*(table[c].to_pylist() for c in columns)))
    return rows


if sys.argv[1] == "same":
    lakes = {folder: whole(folder) for folder in sys.argv[2:]}
    first = next(iter(lakes.values()))
    for folder, rows in lakes.items():
        print(sum(rows.values()), "rows in", folder, "" if rows == first else "DIFFER: %r" % list((rows - first + (first - rows)).items())[:3])
    sys.exit(0 if first and all(rows == first for rows in lakes.values()) else 1)

kind, lake_folder, dead_folder, names = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
want = collections.Counter(csv_input(names) if kind == "csv" else json_input(names))
got = collections.Counter({
    "csv": lambda: lake(lake_folder, CSV_COLUMNS),
    "json": lambda: (row[0] for row in lake(lake_folder, ["event_id"])),
    "log": lambda: json_input([lake_folder]),
}[kind]())
letters = collections.Counter(dead(dead_folder))
rows = sum(got.values())
got += letters
lost, extra = want - got, got - want
print(f"{sum(want.values())} in; {rows} in {lake_folder} + {sum(letters.values())} dead letters = {sum(got.values())} out")
for what, rows in ("lost", lost), ("too many", extra):
    for row, n in list(rows.items())[:5]:
        print(what, n, row)
    if rows:
        print(what, sum(rows.values()), "in all")
sys.exit(1 if lost or extra else 0)
