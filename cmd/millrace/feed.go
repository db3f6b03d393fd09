package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/sources/collect"
	"github.com/millrace-io/millrace/sources/collect/natslog"
)

// feed replays files of JSON lines into the log of millrace dev. How far it came is kept in the log's server, so that a
// restart goes on there; lines that a kill made it send again are recognised by their message id.
type feed struct {
	files []feedFile
}

type feedFile struct {
	name string // part of the message ids
	open func() (io.ReadCloser, error)
}

// openFeed finds the files of --data.
func openFeed(data string) (*feed, error) {
	switch data {
	case "none":
		return &feed{}, nil
	case "":
		sample := feedFile{"sample", func() (io.ReadCloser, error) { return devFiles.Open("sample.jsonl.gz") }}
		return &feed{[]feedFile{sample}}, nil
	}
	f := &feed{}
	for pattern := range strings.SplitSeq(data, ",") {
		names, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("--data: %q: %w", pattern, err)
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("--data: no file matches %q", pattern)
		}
		slices.Sort(names)
		for _, name := range names {
			if name, err = filepath.Abs(name); err != nil {
				return nil, err
			}
			f.files = append(f.files, feedFile{name, func() (io.ReadCloser, error) { return os.Open(name) }})
		}
	}
	return f, nil
}

// feedBatch lines are sent at once, at most; at low speeds as many as a tenth of a second has.
const feedBatch = 200

// run sends all lines, speed of them a second, until ctx ends.
func (f *feed) run(ctx context.Context, log *natslog.Log, speed float64) error {
	progress, err := log.JetStream().CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "replay"})
	if err != nil {
		return err
	}
	for i, file := range f.files {
		key := "file." + strconv.Itoa(i)
		done, err := linesDone(ctx, progress, key, file.name)
		if err != nil {
			return err
		}
		if err := file.run(ctx, log, speed, done, func(n int) error {
			text, err := json.Marshal(feedProgress{file.name, n})
			if err == nil {
				_, err = progress.Put(ctx, key, text)
			}
			return err
		}); err != nil {
			return fmt.Errorf("%s: %w", file.name, err)
		}
	}
	return nil
}

type feedProgress struct {
	File  string `json:"file"`
	Lines int    `json:"lines"`
}

// linesDone is how many lines of the file were sent by an earlier run.
func linesDone(ctx context.Context, progress jetstream.KeyValue, key, name string) (int, error) {
	entry, err := progress.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var p feedProgress
	if err := json.Unmarshal(entry.Value(), &p); err != nil || p.File != name {
		return 0, nil // of another file
	}
	return p.Lines, nil
}

func (f feedFile) run(ctx context.Context, log *natslog.Log, speed float64, done int, save func(lines int) error) error {
	in, err := f.open()
	if err != nil {
		return err
	}
	defer in.Close()
	buffered := bufio.NewReader(in)
	reader := io.Reader(buffered)
	if magic, _ := buffered.Peek(2); string(magic) == "\x1f\x8b" {
		if reader, err = gzip.NewReader(buffered); err != nil {
			return err
		}
	}
	lines := bufio.NewScanner(reader)
	lines.Buffer(nil, 4<<20)
	size, pause := feedBatch, time.Duration(0)
	if speed > 0 {
		size = max(1, min(feedBatch, int(speed/10)))
		pause = time.Duration(float64(size) / speed * float64(time.Second))
	}
	pace := time.NewTicker(max(pause, time.Microsecond))
	defer pace.Stop()
	var batch []collect.Event
	n := 0
	send := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := log.Append(ctx, batch); err != nil {
			return err
		}
		batch = batch[:0]
		if pause > 0 {
			select {
			case <-pace.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return save(n)
	}
	for lines.Scan() {
		if n++; n <= done || len(lines.Bytes()) == 0 {
			continue
		}
		line := slices.Clone(lines.Bytes())
		event := collect.Event{Key: feedKey(line), ID: fmt.Sprintf("%s:%d", f.name, n), Value: line}
		if batch = append(batch, event); len(batch) == size {
			if err := send(); err != nil {
				return err
			}
		}
	}
	return errors.Join(lines.Err(), send())
}

// feedKey is the user of a line, so that a user's events stay in order. Lines that are no JSON go in too: they become dead letters.
func feedKey(line []byte) string {
	var e struct {
		User      any `json:"user_id"`
		Anonymous any `json:"anonymous_id"`
		Session   any `json:"session_id"`
	}
	_ = json.Unmarshal(line, &e)
	for _, v := range []any{e.User, e.Anonymous, e.Session} {
		if v != nil {
			return fmt.Sprint(v)
		}
	}
	return ""
}
