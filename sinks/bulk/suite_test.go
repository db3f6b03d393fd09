package bulk_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/document"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
)

// memory is a server that keeps the rules by itself: the suite shows what the loop adds.
type memory struct {
	shape  sinktest.Shape
	faults *[]sinktest.Fault
	rows   map[string]sinktest.Held
	log    *[]sinktest.Held
	mu     *sync.Mutex
	order  stream.Ordering
}

func (m memory) Encoder(t stream.Tenure) (bulk.Encoder, error) {
	d, err := document.New(t.Schema, t.Partition, nil)
	return memoryEncoder{d, t.Partition, m.shape}, err
}

type memoryEncoder struct {
	d         *document.Encoder
	partition string
	shape     sinktest.Shape
}

func (e memoryEncoder) Encode(key, body []byte, ev *stream.Event) ([]byte, []byte, error) {
	if e.shape != sinktest.Identity {
		key = append(key, ev.Values[stream.User].Text()...)
	} else {
		key = stream.PlaceOf(e.partition, ev).AppendVersion(append(append(key, e.partition...), ':'))
	}
	return key, e.d.Append(body, ev), nil
}

func (m memory) Idle() {}

func (m memory) next() (f sinktest.Fault, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(*m.faults) == 0 {
		return 0, false
	}
	f = (*m.faults)[0]
	*m.faults = (*m.faults)[1:]
	return f, true
}

func (m memory) Send(ctx context.Context, items []*bulk.Item) error {
	fault, ok := m.next()
	if ok && fault == sinktest.Hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if ok && (fault == sinktest.Unavailable || fault == sinktest.Throttled) {
		return errBusy
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	failed := map[string]bool{}
	for i, it := range items {
		if string(it.Record.Value) == "poison" {
			it.Err = bulk.Refused(errors.New("poison"))
			continue
		}
		if ok && fault == sinktest.Partial && i%2 == 0 || failed[string(it.Key)] {
			failed[string(it.Key)] = m.shape == sinktest.Log
			it.Err = errBusy
			continue
		}
		h := sinktest.Held{ID: string(it.Key), Place: stream.Place{Partition: it.Partition, Pos: it.Record.Pos, Index: it.Index, Time: it.Record.Time}, Values: string(it.Body)}
		if m.shape == sinktest.Log {
			*m.log = append(*m.log, h)
		} else if old, ok := m.rows[h.ID]; !ok || m.order.Later(h.Place, old.Place) {
			m.rows[h.ID] = h
		}
	}
	if ok && fault == sinktest.LostAnswer {
		return errLostAnswer
	}
	return nil
}

func TestAServerInMemoryKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	orders := map[sinktest.Shape]bulk.Order{sinktest.Identity: bulk.Any, sinktest.Keyed: bulk.Newest, sinktest.Log: bulk.InTurn}
	for shape, order := range orders {
		t.Run(fmt.Sprint(shape), func(t *testing.T) {
			sinktest.RunUpsert(t, func(*testing.T) sinktest.UpsertBackend {
				m := memory{shape, new([]sinktest.Fault), map[string]sinktest.Held{}, new([]sinktest.Held), new(sync.Mutex), 0}
				return sinktest.UpsertBackend{
					Schema: schema(), Shape: shape,
					New: func(_ *testing.T, o stream.Ordering) stream.Upsert {
						m := m
						m.order = o
						return bulk.New(m, bulk.Options{Name: "search", Order: order, Items: 64})
					},
					Fail: func(faults ...sinktest.Fault) {
						m.mu.Lock()
						defer m.mu.Unlock()
						*m.faults = faults
					},
					Poison: func(e *stream.Event) { e.Record.Value = []byte("poison") },
					Contents: func(*testing.T) []sinktest.Held {
						m.mu.Lock()
						defer m.mu.Unlock()
						out := append([]sinktest.Held(nil), *m.log...)
						for _, h := range m.rows {
							out = append(out, h)
						}
						return out
					},
				}
			})
		})
	}
}
