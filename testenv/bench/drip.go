package main

import (
	"bytes"
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/testenv/clicks"
)

// drip sends events to the topic clicks at an even rate, in steps of 5 ms, until it has sent most or ctx ends. sent is told of each
// event just before it goes out. It returns how many were acknowledged.
func drip(ctx context.Context, addr string, rate int, most uint64, sent func(id string)) (uint64, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("clicks"), kgo.ProducerLinger(0),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	began := time.Now()
	g := clicks.New(clicks.Config{Seed: 1, Start: began, Step: time.Second / time.Duration(rate)})
	failed := make(chan error, 1)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	n := uint64(0)
	for n < most && ctx.Err() == nil {
		for due := min(most, uint64(time.Since(began).Seconds()*float64(rate))); n < due; n++ {
			value := g.Append(make([]byte, 0, 640), n)
			sent(idOf(value))
			client.Produce(context.WithoutCancel(ctx), &kgo.Record{Key: g.Key(nil, n), Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		case err := <-failed:
			return n, err
		}
	}
	return n, client.Flush(context.WithoutCancel(ctx))
}

// idOf is the event's id.
func idOf(event []byte) string {
	_, rest, _ := bytes.Cut(event, []byte(`"event_id":"`))
	id, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(id)
}
