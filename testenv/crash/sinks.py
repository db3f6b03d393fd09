"""Compares OpenSearch and DynamoDB with what went in. It asks both over plain HTTP and knows nothing of the lake.

sinks.py SEARCH ALIAS TABLES TABLE PLACES

PLACES has a line {"partition", "offset", "time" (ms), "value"} for each record that the log took. The index has to hold one
document for each value that is JSON, and the table one item for each user, with the values of the user's last event: by the
log's time, then by partition, then by offset; a purchase deletes, and leaves a mark. Prints what differs.
"""
import collections, datetime, decimal, json, sys, urllib.request

search, alias, tables, table, places = sys.argv[1:]
exact = json.JSONDecoder(parse_float=decimal.Decimal, parse_int=decimal.Decimal).decode


def ask(url, body, **headers):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return exact(answer.read().decode("utf-8"))


def dynamodb(operation, body):
    signature = "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0"
    return ask(tables, body, **{"X-Amz-Target": "DynamoDB_20120810." + operation, "Content-Type": "application/x-amz-json-1.0", "Authorization": signature})


def plain(value):
    """A value of DynamoDB's JSON as what it means."""
    (kind, v), = value.items()
    return {"N": decimal.Decimal, "L": lambda v: [plain(e) for e in v], "M": lambda v: {k: plain(e) for k, e in v.items()}}.get(kind, lambda v: v)(v)


def instant(text):
    return datetime.datetime.fromisoformat(text)


TIMES = "event_time", "received_at"
PROPERTIES = "page",  # what no column takes


def comparable(row):
    """Times are compared as times. bot is judged by a list of ours, so only its type is looked at."""
    row = {k: instant(v) if k in TIMES else v for k, v in row.items()}
    if "bot" in row:
        assert isinstance(row.pop("bot"), bool)
    return row


def row_of(event, place):
    row = {k: v for k, v in event.items() if k not in PROPERTIES}
    row["properties"] = {k: v for k, v in event.items() if k in PROPERTIES}
    taken = datetime.datetime.fromtimestamp(place["time"] // 1000, datetime.timezone.utc)
    row["received_at"] = (taken + datetime.timedelta(milliseconds=place["time"] % 1000)).isoformat()
    return {**comparable(row), **identity(place)}


def identity(place):
    return {"_partition": place["partition"], "_position": "%016x-00000000" % place["offset"]}


want_documents, want_items, newest, last = {}, {}, {}, {}
records = 0
for line in open(places, encoding="utf-8"):
    place = json.loads(line)
    records += 1
    order = (place["time"], place["partition"], place["offset"])
    assert last.get(place["partition"], order) <= order, "the log's time goes back within a partition: %r" % place
    last[place["partition"]] = order
    try:
        event = exact(place["value"])
    except ValueError:
        continue  # goes to the dead letters
    row = row_of(event, place)
    where = "%s-%s" % (alias, instant(event["event_time"]).date())
    assert event["event_id"] not in want_documents, event
    want_documents[event["event_id"]] = {**row, "_index": where, "_id": "%(_partition)s:%(_position)s" % row}
    user = event["user_id"]
    if newest.get(user, order) <= order:
        newest[user] = order
        if event["event_type"] == "purchase":
            row = {"user_id": user, "_deleted": True, **identity(place)}
        want_items[user] = {**row, "_time": decimal.Decimal(1000 * place["time"])}

documents, ids = {}, collections.Counter()
ask(search + "/" + alias + "/_refresh", {})
page = ask(search + "/" + alias + "/_search?scroll=1m", {"size": 5000, "sort": ["_doc"]})
while page["hits"]["hits"]:
    for hit in page["hits"]["hits"]:
        row = comparable(hit["_source"])
        ids[row["event_id"]] += 1
        documents[row["event_id"]] = {**row, "_index": hit["_index"], "_id": hit["_id"]}
    page = ask(search + "/_search/scroll", {"scroll": "1m", "scroll_id": page["_scroll_id"]})

items, start = {}, {}
while True:
    page = dynamodb("Scan", {"TableName": table, "ConsistentRead": True, **start})
    for item in page["Items"]:
        item = comparable({k: plain(v) for k, v in item.items()})
        items[item["user_id"]] = item
    if "LastEvaluatedKey" not in page:
        break
    start = {"ExclusiveStartKey": json.loads(json.dumps(page["LastEvaluatedKey"]))}


def differences(name, want, got):
    """Prints the first of each kind, and returns how many there are."""
    found = {
        "missing": [k for k in want if k not in got],
        "extra": [k for k in got if k not in want],
        "differs": [k for k in want if k in got and got[k] != want[k]],
    }
    for kind, keys in found.items():
        for k in keys[:5]:
            print(f"{kind}: {name} {k}")
            for f in sorted(want[k].keys() | got[k].keys()) if kind == "differs" else ():
                if want[k].get(f) != got[k].get(f):
                    print(f"  {f} is {got[k].get(f)}, should be {want[k].get(f)}")
        if keys:
            print(f"{kind}: {len(keys)} {name}s in all")
    return sum(map(len, found.values()))


twice = [i for i, n in ids.items() if n > 1]
for i in twice[:5]:
    print("twice: document", i, "is there", ids[i], "times")
wrong = len(twice) + differences("document", want_documents, documents) + differences("item", want_items, items)
deleted = sum("_deleted" in i for i in items.values())
indexes = len({d["_index"] for d in documents.values()})
print(f"{records} records in, {len(want_documents)} of them events; {sum(ids.values())} documents in {indexes} indexes; "
      f"{len(items)} items of {len(want_items)} users, {deleted} of them deleted")
sys.exit(1 if wrong else 0)
