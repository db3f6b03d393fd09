package main

import (
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// deadFile is a lake that is committed every 5 s, and a search that may die.
const deadFile = `name: dead
source:
  kafka: { brokers: ["%s"], topics: [clicks], start: earliest }
decode: { format: json }
sinks:
  lake: { parquet: { url: "s3://lake/clicks", partition_by: [date], roll: { size: 128MiB, age: 5s } } }
  search:
    opensearch: { url: "%s", index: "clicks-{date}", alias: clicks, replicas: 0, id: event_id }
    on_stall: spool
dead_letters: { url: "s3://lake/dead" }
memory: 256MiB
admin: %s
`

const (
	deadRate   = 5000 // events a second
	deadBefore = 60 * time.Second
	deadWarm   = 10 * time.Second // of that, not counted
	deadBar    = 3.0              // drain rate over arrival rate
)

// dead lets OpenSearch be dead for a while and watches the lake, the memory, and the way back. Every event's id has to have arrived
// in the end.
func (o options) dead(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"broker", "s3"} {
		if err := build(ctx, dir, name); err != nil {
			return err
		}
	}
	m, err := newMortal(ctx, o.how == "refuse")
	if err != nil {
		return err
	}
	p, err := o.startPipeline(ctx, dir, deadFile, "http://"+m.addr)
	if err != nil {
		return err
	}
	defer p.stop()
	dripping, enough := context.WithCancel(ctx)
	defer enough()
	var sent uint64
	var dripped error
	var producer sync.WaitGroup
	producer.Go(func() { sent, dripped = drip(dripping, p.broker, deadRate, 1<<62, func(string) {}) })
	w := &watch{running: p}

	if err := w.during(ctx, deadWarm, nil); err != nil {
		return err
	}
	before := w.phase()
	if err := w.during(ctx, deadBefore-deadWarm, before); err != nil {
		return err
	}
	m.die()
	outage := w.phase()
	if err := w.during(ctx, time.Duration(o.seconds)*time.Second, outage); err != nil {
		return err
	}
	if err := m.live(ctx); err != nil {
		return err
	}
	back := w.phase()
	for first := true; first || w.last["sink_spooling"] > 0 || w.last["sink_spool_files"] > 0; first = false {
		if err := w.during(ctx, time.Second, back); err != nil {
			return err
		}
		if back.length() > time.Hour {
			return fmt.Errorf("not drained within an hour: %v files", w.last["sink_spool_files"])
		}
	}
	load := loadAverage()
	back.print(before, outage, o, load)
	enough()
	producer.Wait()
	if dripped != nil {
		return dripped
	}
	if err := p.end(); err != nil {
		return err
	}
	if got := m.distinct(); got != int(sent) {
		return fmt.Errorf("%d events were sent, and %d arrived at the search", sent, got)
	}
	fmt.Printf("%d events sent, the ids of all of them at the search\n", sent)
	return nil
}

// mortal is a search that dies and comes back, at one address.
type mortal struct {
	*stub
	addr    string
	refuses bool

	listener net.Listener
	seed     maphash.Seed
	idsMu    sync.Mutex
	ids      map[uint64]bool // hashes
}

func newMortal(ctx context.Context, refuses bool) (*mortal, error) {
	s, err := newStub(ctx, "opensearch")
	if err != nil {
		return nil, err
	}
	m := &mortal{stub: s, refuses: refuses, seed: maphash.MakeSeed(), ids: map[uint64]bool{}}
	answer := s.answer
	s.answer = func(body []byte) []byte {
		m.note(body)
		return answer(body)
	}
	m.addr = "127.0.0.1:0"
	return m, m.live(ctx)
}

// note keeps the ids of a request's writes.
func (m *mortal) note(body []byte) {
	m.idsMu.Lock()
	defer m.idsMu.Unlock()
	for line := range bytes.Lines(body) {
		if _, rest, ok := bytes.Cut(line, []byte(`"_id":"`)); ok && bytes.HasPrefix(line, []byte(`{"create":{`)) {
			id, _, _ := bytes.Cut(rest, []byte(`"`))
			m.ids[maphash.Bytes(m.seed, id)] = true
		}
	}
}

func (m *mortal) distinct() int {
	m.idsMu.Lock()
	defer m.idsMu.Unlock()
	return len(m.ids)
}

func (m *mortal) die() {
	m.stub.dead.Store(true)
	if m.refuses {
		_ = m.listener.Close()
		m.cut()
	}
}

// live begins to listen, or to answer, (again).
func (m *mortal) live(ctx context.Context) error {
	if m.stub.dead.Swap(false) {
		m.cut() // those that were taken while it was dead
		if !m.refuses {
			return nil
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", m.addr)
	if err != nil {
		return err
	}
	m.addr, m.listener = l.Addr().String(), l
	go func() { _ = m.serve(l) }() // ends with the listener
	return nil
}

// watch samples millrace's metrics.
type watch struct {
	*running
	last map[string]float64 // without millrace_, added up over the labels but for the sinks'
}

// phase is what was seen during some time.
type phase struct {
	began, ended time.Time
	ages         []time.Duration // of the last commit of each partition, at each sample
	rss          []int64         // bytes, at each sample
	first, last  map[string]float64
}

func (p *phase) length() time.Duration { return p.ended.Sub(p.began) }

// memory is the median of the first and of the last fifth of the phase.
func (p *phase) memory() (first, last int64) {
	fifth := max(1, len(p.rss)/5)
	median := func(of []int64) int64 { return slices.Sorted(slices.Values(of))[len(of)/2] }
	return median(p.rss[:fifth]), median(p.rss[len(p.rss)-fifth:])
}

// grew is how much a counter did.
func (p *phase) grew(name string) float64 { return p.last[name] - p.first[name] }

func (w *watch) phase() *phase { return &phase{began: time.Now(), ended: time.Now(), first: w.last} }

// during samples five times a second, for some time.
func (w *watch) during(ctx context.Context, length time.Duration, into *phase) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(length); time.Now().Before(end); {
		select {
		case <-tick.C:
		case <-w.ended:
			return fmt.Errorf("millrace ended: %w", w.err)
		}
		text, err := get(ctx, "http://"+w.admin+"/metrics")
		if err != nil {
			return err
		}
		now := time.Now()
		ages := w.read(text, now)
		if into != nil {
			into.ended, into.last = now, w.last
			into.ages, into.rss = append(into.ages, ages...), append(into.rss, resident(w.cmd.Process.Pid))
		}
	}
	return nil
}

// read takes one scrape.
func (w *watch) read(text string, now time.Time) (ages []time.Duration) {
	w.last = map[string]float64{}
	for row := range strings.SplitSeq(text, "\n") {
		name, rest, ok := strings.Cut(strings.TrimPrefix(row, "millrace_"), "{")
		at := strings.LastIndexByte(rest, ' ')
		if !ok || at < 0 {
			continue
		}
		v, err := strconv.ParseFloat(rest[at+1:], 64)
		if err != nil {
			continue
		}
		if name == "partition_last_commit_timestamp_seconds" {
			ages = append(ages, now.Sub(time.UnixMilli(int64(v*1000))))
		}
		w.last[name] += v
	}
	return ages
}

// resident is a process's memory in bytes; 0 where the system does not say.
func resident(pid int) int64 {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kb, _ := strconv.ParseInt(fields[0], 10, 64)
	return kb << 10
}

// print prints the table; p is the way back.
func (p *phase) print(before, outage *phase, o options, load string) {
	fmt.Printf("%-18s %8s %22s %22s %22s\n", "dead ("+o.how+")", "length", "commit age median", "commit age p99", "RSS first/last/most")
	for _, row := range []struct {
		name string
		*phase
	}{{"before", before}, {"dead", outage}, {"until drained", p}} {
		median, p99 := percentile(row.ages, 50), percentile(row.ages, 99)
		ratio := func(a, b time.Duration) string {
			return fmt.Sprintf("%.2fs (x %.2f)", a.Seconds(), a.Seconds()/b.Seconds())
		}
		first, last := row.memory()
		fmt.Printf("%-18s %7.0fs %22s %22s %12d/%d/%d MB\n", row.name, row.length().Seconds(), ratio(median, percentile(before.ages, 50)),
			ratio(p99, percentile(before.ages, 99)), first>>20, last>>20, slices.Max(row.rss)>>20)
	}
	drained := p.grew("sink_drained_writes_total")
	rate := drained / p.length().Seconds()
	fmt.Printf("%.0f writes set aside while dead; %.0f drained in %.0f s: %.0f/s, %.1f times the arrival rate of %d/s (goal: %v)\n",
		outage.grew("sink_spooled_writes_total"), drained, p.length().Seconds(), rate, rate/deadRate, deadRate, deadBar)
	fmt.Println("load average:", load)
}
