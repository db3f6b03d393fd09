package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/millrace-io/millrace/sources/collect"
	"github.com/millrace-io/millrace/sources/collect/tracker"
	"github.com/millrace-io/millrace/stream"
)

// doorMux serves the events and the script that sends them.
func doorMux(events http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("/v1/events", events)
	mux.Handle("/tracker.js", tracker.Handler())
	return mux
}

// idle is how long a connection may wait for its next request.
const idle = 75 * time.Second

// door is the HTTP server that events come in by.
type door struct {
	listener net.Listener
	server   *http.Server  // speaks TLS if it has a TLSConfig
	drain    time.Duration // for the requests that are under way at the end
}

func newDoor(l net.Listener, h http.Handler, limits collect.Limits, log *slog.Logger) *door {
	return &door{
		listener: netutil.LimitListener(l, limits.Connections),
		server: &http.Server{
			Handler: h, ReadHeaderTimeout: min(10*time.Second, limits.Receive), ReadTimeout: limits.Receive,
			WriteTimeout: limits.Receive + limits.Deadline + 10*time.Second, IdleTimeout: idle,
			MaxHeaderBytes: int(limits.Headers),
			ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug), // of clients that break off
		},
	}
}

// serve answers until soft ends; then it takes no connection more, answers what is under way, and returns. What has not
// arrived whole when drain is over, or when hard ends, is cut off: nobody was told that it is accepted.
func (d *door) serve(soft, hard context.Context) error {
	ended := make(chan error, 1)
	var served sync.WaitGroup
	served.Go(func() {
		if d.server.TLSConfig == nil {
			ended <- d.server.Serve(d.listener)
			return
		}
		ended <- d.server.ServeTLS(d.listener, "", "")
	})
	defer served.Wait()
	defer d.server.Close()
	select {
	case err := <-ended:
		return fmt.Errorf("listen: %w", err)
	case <-soft.Done():
	}
	ctx, cancel := context.WithTimeout(hard, d.drain)
	defer cancel()
	err := d.server.Shutdown(ctx)
	if hard.Err() != nil {
		return context.Cause(hard)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// check refuses at the door what would become a dead letter.
type check struct {
	schema *stream.Schema
	tools  sync.Pool
}

// checker is what one check at a time uses.
type checker struct {
	decoder stream.Decoder
	batch   *stream.Batch
}

func newCheck(schema *stream.Schema, decoder func() stream.Decoder) *check {
	return &check{schema: schema, tools: sync.Pool{New: func() any { return &checker{decoder(), stream.NewBatch(schema)} }}}
}

func (c *check) event(value []byte) (collect.Facts, error) {
	t := c.tools.Get().(*checker)
	defer c.tools.Put(t)
	t.batch.Reset()
	if err := t.decoder.Decode(&stream.Record{Value: value, Time: time.Now()}, t.batch); err != nil {
		return collect.Facts{}, err
	}
	if len(t.batch.Events) != 1 || value[0] != '{' {
		return collect.Facts{}, fmt.Errorf("holds %d events in an array; want one JSON object", len(t.batch.Events))
	}
	values := t.batch.Events[0].Values
	return collect.Facts{
		Key: c.first(values, stream.User, stream.Anonymous, stream.Session), ID: c.first(values, stream.ID),
		Time: time.UnixMicro(values[stream.Time].Int()),
	}, nil
}

// first is the text of the first of some columns that has one.
func (c *check) first(values []stream.Value, columns ...int) string {
	for _, column := range columns {
		if v := values[column]; !v.IsNull() {
			return string(v.AppendText(nil, c.schema.Columns[column].Type))
		}
	}
	return ""
}
