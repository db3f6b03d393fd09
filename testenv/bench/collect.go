package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/testenv/clicks"
)

// collectFile is the collector of the benchmark: write key, limits by key and address, consent and the check of every event
// are on, as they are for a site.
const collectFile = `listen: 127.0.0.1:0
to:
  kafka: { brokers: ["%s"], topic: clicks }
write_keys: { web: { key: bench } }
limits:
  per_key: { per_second: 1000000 }
  per_address: { per_second: 1000000 }
`

// perRequest events are in a request.
const perRequest = 20

// collect measures millrace collect: events over HTTP in batches of 20 from this process to a Kafka broker in a third one. The
// broker's offsets prove that nothing accepted is missing.
func (o options) collect(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := build(ctx, dir, "broker"); err != nil {
		return err
	}
	broker, brokerAddr, err := start(ctx, filepath.Join(dir, "broker"), "-topic", "clicks", "-partitions", "4")
	if err != nil {
		return err
	}
	defer stop(broker)
	file := filepath.Join(dir, "collect.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, collectFile, brokerAddr), 0o666); err != nil {
		return err
	}
	cmd, url, err := start(ctx, o.millrace, "collect", "--log-level", "warn", file)
	if err != nil {
		return err
	}
	began := time.Now()
	took, loadErr := o.load20(ctx, url+"/v1/events?key=bench")
	wall := time.Since(began)
	if err := errors.Join(loadErr, cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
		stop(cmd)
		return err
	}
	figures := figuresOf(cmd, wall)
	stored, err := offsets(ctx, brokerAddr, "clicks")
	if err != nil {
		return err
	}
	sent := int64(len(took) * perRequest)
	fmt.Printf("%-16s %14s %12s %9s %9s %10s %10s\n", "collect", "CPU-s/million", "events/s", "p50", "p99", "peak RSS", "wall")
	fmt.Printf("%-16s %14.2f %12.0f %9s %9s %7d MB %9.1fs\n", fmt.Sprintf("%d clients", o.clients), figures.cpu.Seconds()/(float64(sent)/1e6),
		float64(sent)/wall.Seconds(), percentile(took, 50), percentile(took, 99), figures.rss>>20, wall.Seconds())
	fmt.Printf("%-16s %d events accepted, %d in the topic\n", "", sent, stored)
	if stored != sent {
		return fmt.Errorf("%d events were accepted and %d are in the topic", sent, stored)
	}
	return nil
}

// load20 posts the events in batches of 20, each client one request at a time, and returns how long the requests took.
func (o options) load20(ctx context.Context, url string) ([]time.Duration, error) {
	g := clicks.New(clicks.Config{Seed: 1})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: o.clients}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		clients sync.WaitGroup
		mu      sync.Mutex
		all     []time.Duration
	)
	requests := o.events / perRequest
	for c := range o.clients {
		clients.Go(func() {
			var own []time.Duration
			for n := c; n < requests && ctx.Err() == nil; n += o.clients {
				body := []byte{'['}
				for i := range uint64(perRequest) {
					body = append(g.Append(body, uint64(n)*perRequest+i), ',')
				}
				body[len(body)-1] = ']'
				began := time.Now()
				if err := post(ctx, client, url, body); err != nil {
					cancel(err)
					return
				}
				own = append(own, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	clients.Wait()
	return all, context.Cause(ctx)
}

func post(ctx context.Context, client *http.Client, url string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", response.StatusCode, text)
	}
	return err
}

// percentile of some durations, which it sorts.
func percentile(ds []time.Duration, p int) time.Duration {
	slices.Sort(ds)
	return ds[min(len(ds)*p/100, len(ds)-1)].Round(10 * time.Microsecond)
}

// offsets is how many records the topic has.
func offsets(ctx context.Context, addr, topic string) (int64, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	total := int64(0)
	ends.Each(func(end kadm.ListedOffset) { total += end.Offset })
	return total, ends.Error()
}

func build(ctx context.Context, dir, name string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, name), "./testenv/cmd/"+name)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s: %w", name, err)
	}
	return nil
}
