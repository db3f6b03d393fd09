package parquet_test

import (
	"context"
	"runtime"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/parquet"
	"github.com/millrace-io/millrace/stream"
)

// hoarder is a store whose uploads keep their bytes in memory until they are sealed, as those to S3 do below one part.
type hoarder struct{ discard }

func (h *hoarder) Begin(key string) objects.Upload {
	return &hoardedUpload{discardUpload: discardUpload{d: &h.discard, key: key}}
}

type hoardedUpload struct {
	discardUpload
	data []byte
}

func (u *hoardedUpload) Write(b []byte) (int, error) {
	u.data = append(u.data, b...)
	return u.discardUpload.Write(b)
}
func (u *hoardedUpload) Buffered() int64 { return int64(cap(u.data)) }
func (u *hoardedUpload) Seal(ctx context.Context, meta map[string]string) (objects.Ticket, error) {
	u.data = nil
	return u.discardUpload.Seal(ctx, meta)
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools let go of
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

const mib = 1 << 20

// The engine commits when the buffers outgrow its budget. So the reports must be true, or the process outgrows it unseen; and a
// file that has a few rows must take a few kilobytes, or a thousand of them never get beyond a few rows.
func TestAThousandOpenHoursStayInTheBudget(t *testing.T) {
	const hours, budget = 1000, 64 * mib
	events := clicks(t, 64_000, 20_000)
	for i, e := range events {
		e.Values[stream.Time] = stream.TimestampValue(int64(i%hours) * 3_600_000_000)
	}
	sink := newSink(t, &hoarder{}, parquet.Config{PartitionBy: []string{"date", "hour"}})
	w, err := sink.Open(t.Context(), stream.Tenure{Pipeline: "clicks", Sink: "lake", Partition: "clicks-3", Epoch: 1, Schema: clickSchema(t)})
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	commits, rows, most, inOneCommit := 0, 0, int64(0), 0
	for range 2 {
		for batch := range slices.Chunk(events, 512) {
			w.Write(batch)
			if err := w.Upload(t.Context()); err != nil {
				t.Fatal(err)
			}
			rows += len(batch)
			if rows == 10*512 { // every hour has its first five rows
				honest(t, before, w.Buffered())
				if each := w.Buffered() / hours; each > 32<<10 {
					t.Errorf("a file of 5 rows takes %d bytes", each)
				}
			}
			most = max(most, w.Buffered())
			if w.Buffered() <= budget {
				continue
			}
			honest(t, before, w.Buffered())
			receipts, err := w.Stage(t.Context(), stream.Provenance{Pipeline: "clicks", Partition: "clicks-3"})
			if err != nil {
				t.Fatal(err)
			}
			if len(receipts) != hours {
				t.Fatalf("%d files of %d hours", len(receipts), hours)
			}
			commits++
			inOneCommit, rows = rows, 0
			honest(t, before, w.Buffered())
		}
	}
	t.Logf("%d commits of about %d rows; at most %d MiB reported", commits, inOneCommit, most/mib)
	if commits == 0 || most > budget+2*mib {
		t.Errorf("%d commits, at most %d bytes reported; want one or more, and at most the budget and a batch", commits, most)
	}
	runtime.KeepAlive(events)
}

// base is what the encoders may take beside what the writers report.
const base = 16 * mib

func honest(t *testing.T, before, reported int64) {
	t.Helper()
	if grown := heap() - before; grown > reported*3/2+base || reported > grown*3/2+base {
		t.Errorf("the heap grew by %d KiB, and %d KiB are reported", grown>>10, reported>>10)
	} else {
		t.Logf("the heap grew by %d KiB, and %d KiB are reported", grown>>10, reported>>10)
	}
}

func TestALongFileStaysSmallInMemory(t *testing.T) {
	events := clicks(t, 60_000, 20_000)
	sink := newSink(t, &discard{}, parquet.Config{RowGroup: 8 * mib, Roll: parquet.Roll{Size: 1 << 40}})
	w, err := sink.Open(t.Context(), stream.Tenure{Pipeline: "clicks", Sink: "lake", Partition: "clicks-3", Epoch: 1, Schema: clickSchema(t)})
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	most := int64(0)
	for range 3 {
		for batch := range slices.Chunk(events, 512) {
			w.Write(batch)
			most = max(most, w.Buffered())
		}
		honest(t, before, w.Buffered())
	}
	if most > 16*mib {
		t.Errorf("with row groups of 8 MiB the writer holds up to %d MiB", most/mib)
	}
	w.Discard(t.Context())
	runtime.KeepAlive(events)
}

func TestWhatTheUploadsHoldIsReported(t *testing.T) {
	store := &hoarder{}
	w, err := newSink(t, store, parquet.Config{RowGroup: 64 << 10}).Open(t.Context(), stream.Tenure{Pipeline: "clicks", Schema: clickSchema(t)})
	if err != nil {
		t.Fatal(err)
	}
	for batch := range slices.Chunk(clicks(t, 20_000, 14), 512) {
		w.Write(batch)
	}
	if store.bytes < mib || w.Buffered() < store.bytes {
		t.Errorf("%d bytes are reported; the uploads alone hold %d", w.Buffered(), store.bytes)
	}
	w.Discard(t.Context())
}
