package stream_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// Mutations seen red: AppendVersion with a dot for the dash -> VersionsSortLikeTheLog.

func TestVersionsSortLikeTheLog(t *testing.T) {
	const seed = 3
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	place := func() stream.Place {
		p := stream.Place{Pos: stream.OffsetPosition(r.Uint64N(4)), Index: uint32(r.Uint64N(3))}
		if r.IntN(2) == 0 {
			p.Pos[8+r.IntN(24)] = byte(r.IntN(3))
		}
		return p
	}
	for range 20_000 {
		a, b := place(), place()
		if got, want := strings.Compare(a.Version(), b.Version()) > 0, stream.ByPosition.Later(a, b); got != want {
			t.Fatalf("%s later than %s: %t as texts, %t in the log", a.Version(), b.Version(), got, want)
		}
	}
}

func TestLaterAcrossPartitions(t *testing.T) {
	at := func(partition string, offset uint64, second int64) stream.Place {
		return stream.Place{Partition: partition, Pos: stream.OffsetPosition(offset), Time: time.Unix(second, 0)}
	}
	for _, c := range []struct {
		name     string
		ordering stream.Ordering
		a, b     stream.Place
		want     bool
	}{
		{"a child shard's record", stream.ByPosition, at("child", 9, 1), at("parent", 8, 2), true},
		{"a zombie of the parent", stream.ByPosition, at("parent", 8, 2), at("child", 9, 1), false},
		{"a moved key", stream.ByTime, at("t-9", 1, 20), at("t-1", 1000, 10), true},
		{"a zombie of where it was", stream.ByTime, at("t-1", 1000, 10), at("t-9", 1, 20), false},
		{"a clock that went back", stream.ByTime, at("t-1", 2, 10), at("t-1", 1, 20), true},
		{"the same", stream.ByTime, at("t-1", 2, 10), at("t-1", 2, 10), false},
		{"files have no time", stream.ByTime, stream.Place{Partition: "b"}, stream.Place{Partition: "a"}, true},
	} {
		if got := c.ordering.Later(c.a, c.b); got != c.want {
			t.Errorf("%s: later is %t; want %t", c.name, got, c.want)
		}
	}
}
