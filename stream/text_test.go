package stream

import (
	"math/rand/v2"
	"testing"
	"time"
)

// Mutations seen red (line broken -> test):
//
//	appendDigits: from the second digit on -> TimesAreWrittenAsTheLibraryWritesThem
//	appendTimestamp: years beyond 9999 as the others -> TimesAreWrittenAsTheLibraryWritesThem

func TestTimesAreWrittenAsTheLibraryWritesThem(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for range 100_000 {
		us := (r.Int64N(1<<59) - 1<<58) >> r.IntN(58)
		want := time.UnixMicro(us).UTC().Format("2006-01-02T15:04:05.000000Z")
		if got := string(appendTimestamp(nil, us)); got != want {
			t.Fatalf("%d (seed %d) is %s; want %s", us, seed, got, want)
		}
	}
}

func BenchmarkTimestamp(b *testing.B) {
	var text []byte
	for b.Loop() {
		text = appendTimestamp(text[:0], 1_772_445_600_123_456)
	}
}
