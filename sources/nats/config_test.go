package nats

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sources/lease"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
)

func TestConfigNamesEveryProblem(t *testing.T) {
	t.Parallel()
	c := Config{
		URL: "nats://user:secret@, http://x", Partitions: []string{"a.*", "a.1", "a..b", "x.>", "x.y.>"}, Start: "yesterday", Reset: "no",
		Bucket: "a.b", Lease: time.Millisecond, User: "u", Token: "t", TLS: &trust.TLS{Cert: "c"}, Fetch: Fetch{MaxBytes: 1, MaxMessages: -1},
	}
	err := c.Validate()
	if err == nil {
		t.Fatal("no problem is found")
	}
	for _, want := range []string{
		`url has "nats://xxxxx@"`, `url has "http://x"`, "stream is empty", `partitions has "a.*" and "a.1", which overlap`, `partitions has "a..b"`,
		`partitions has "x.>" and "x.y.>"`, `start is "yesterday"`, `reset is "no"`, `bucket is "a.b"`, "lease is 1ms", "user and password",
		"credentials, user and token", "tls.cert and tls.key", "fetch.max_bytes is 1", "fetch.max_messages is -1",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the problems do not name %q:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Error("a password is shown")
	}
}

func TestEmptyConfigNeedsAStreamOnly(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{Stream: "S"}, Options{Pipeline: "clicks"}); err != nil {
		t.Error(err)
	}
}

func TestFiltersOverlapIfASubjectMatchesBoth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a.b", "a", false},
		{"a.*", "a.b", true},
		{"a.*", "*.b", true},
		{"a.*", "b.*", false},
		{">", "a.b.c", true},
		{"a.>", "a", false},
		{"a.>", "a.b", true},
		{"a.*.c", "a.b.d", false},
		{"a.*.>", "a.b.c", true},
		{"a.*.>", "a.b", false},
	} {
		if overlap(c.a, c.b) != c.want || overlap(c.b, c.a) != c.want {
			t.Errorf("overlap of %q and %q is not %v", c.a, c.b, c.want)
		}
	}
}

func TestKeysNameTheirPartition(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"clicks.3", "clicks.*.>", "a=b.$x.ü"} {
		key := keyOf(p)
		if strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/=") != "" {
			t.Errorf("key %q has letters that a bucket does not take", key)
		}
		if back, ok := partitionOf(key); !ok || back != p {
			t.Errorf("partition %q became %q", p, back)
		}
	}
	for _, key := range []string{"a=", "a=2", "a=zz"} {
		if p, ok := partitionOf(key); ok {
			t.Errorf("key %q is partition %q", key, p)
		}
	}
}

func TestRowsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	for _, r := range []lease.Row{
		{Partition: "p", Revision: 7},
		{
			Partition: "p", Owner: "a", Run: "r", Epoch: 3, Renewals: 9, Claim: "b", Mark: mark{Created: 1, Start: 2, After: 3, Clear: 4}.encode(), Revision: 1,
			Committed: true, Checkpoint: stream.Checkpoint{Pos: stream.OffsetPosition(0), Note: []byte{0, 255}},
		},
	} {
		text, err := encode(r)
		if err != nil {
			t.Fatal(err)
		}
		back, err := decode("p", r.Revision, text)
		if err != nil || back.Owner != r.Owner || back.Run != r.Run || back.Epoch != r.Epoch || back.Renewals != r.Renewals || back.Claim != r.Claim ||
			string(back.Mark) != string(r.Mark) || back.Committed != r.Committed || back.Checkpoint.Pos != r.Checkpoint.Pos || string(back.Checkpoint.Note) != string(r.Checkpoint.Note) {
			t.Errorf("%+v became %+v, %v", r, back, err)
		}
	}
}

func TestMarkOfAnotherCheckpointSaysNothing(t *testing.T) {
	t.Parallel()
	at := func(n uint64) lease.Row {
		return lease.Row{Committed: true, Checkpoint: stream.Checkpoint{Pos: stream.OffsetPosition(n)}}
	}
	m := mark{Start: 5, After: 10, Clear: 90}
	for _, c := range []struct {
		row  lease.Row
		m    mark
		want uint64
		ok   bool
	}{
		{at(10), m, 90, true},
		{at(9), m, 9, true}, // 10 was received and not committed: it must be there still
		{at(11), m, 11, true},
		{lease.Row{}, m, 4, true},
		{lease.Row{}, mark{Start: 5, After: 4, Clear: 90}, 90, true},
		{lease.Row{}, mark{}, 0, false},
	} {
		if got, ok := known(c.row, c.m); got != c.want || ok != c.ok {
			t.Errorf("row %v with %+v is known up to %d, %v; want %d", c.row.Checkpoint.Pos, c.m, got, ok, c.want)
		}
	}
}

func FuzzParseReply(f *testing.F) {
	f.Add("$JS.ACK.S.C.1.20.30.1700000000000000000.40")
	f.Add("$JS.ACK.hub.ACCHASH.S.C.1.20.30.1700000000000000000.40")
	f.Add("$JS.ACK.hub.ACCHASH.S.C.1.20.30.1700000000000000000.40.random")
	f.Add("$JS.ACK.")
	f.Fuzz(func(t *testing.T, s string) {
		r, ok := parseReply(s)
		if strings.HasSuffix(s, ".1.20.30.1700000000000000000.40") && strings.HasPrefix(s, "$JS.ACK.") && strings.Count(s, ".") == 8 &&
			(!ok || r != reply{sequence: 20, number: 30, nanos: 1700000000000000000, pending: 40}) {
			t.Errorf("%q is %+v, %v", s, r, ok)
		}
	})
}

func TestReplyOfAnotherDomainIsRead(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"$JS.ACK.S.C.1.20.30.1700000000000000000.40",
		"$JS.ACK.hub.HASH.S.C.1.20.30.1700000000000000000.40",
		"$JS.ACK.hub.HASH.S.C.1.20.30.1700000000000000000.40.random",
	} {
		if r, ok := parseReply(s); !ok || r != (reply{20, 30, 1700000000000000000, 40}) {
			t.Errorf("%q is %+v, %v", s, r, ok)
		}
	}
	for _, s := range []string{"", "$JS.ACK.S.C.1.20.30.40", "$JS.ACK.S.C.1.x.30.17.40", "_INBOX.a"} {
		if r, ok := parseReply(s); ok {
			t.Errorf("%q is %+v", s, r)
		}
	}
}
