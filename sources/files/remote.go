package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// buckets opens each bucket once.
type buckets struct {
	open func(ctx context.Context, url string) (objects.Store, error)
	log  *slog.Logger

	mu     sync.Mutex
	stores map[string]objects.Store
}

func (b *buckets) store(ctx context.Context, bucket string) (objects.Store, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.stores[bucket]; s != nil {
		return s, nil
	}
	s, err := b.open(ctx, "s3://"+bucket)
	if err != nil {
		return nil, err
	}
	if b.stores == nil {
		b.stores = map[string]objects.Store{}
	}
	b.stores[bucket] = s
	return s, nil
}

// split cuts s3://bucket/key.
func split(name string) (bucket, key string) {
	bucket, key, _ = strings.Cut(strings.TrimPrefix(name, "s3://"), "/")
	return bucket, key
}

// find lists the objects that one configured location names: one object, all below a prefix, or those that match a pattern.
func (b *buckets) find(ctx context.Context, location string) ([]file, error) {
	bucket, key := split(location)
	store, err := b.store(ctx, bucket)
	if err != nil {
		return nil, err
	}
	prefix, wanted := strings.TrimSuffix(key, "/"), func(found string) bool {
		rest, ok := strings.CutPrefix(found, strings.TrimSuffix(key, "/"))
		return ok && (key == "" || rest == "" && !strings.HasSuffix(key, "/") || strings.HasPrefix(rest, "/"))
	}
	if i := strings.IndexAny(key, "*?["); i >= 0 {
		pattern := segments(key)
		prefix, wanted = key[:i], func(found string) bool { return match(pattern, segments(found)) }
	}
	var files []file
	for o, err := range store.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		if wanted(o.Key) {
			files = append(files, file{"s3://" + bucket + "/" + o.Key, info{Size: o.Size, Modified: o.Modified, Version: o.Version}})
		}
	}
	return files, nil
}

// remoteFile is one version of an object: a read after it was replaced fails.
type remoteFile struct {
	ctx    context.Context // of the tenure: io.ReaderAt has no place for it
	name   string
	object objects.Object
	seen   info
	log    *slog.Logger
}

func (b *buckets) openFile(ctx context.Context, f file) (handle, error) {
	bucket, key := split(f.name)
	store, err := b.store(ctx, bucket)
	if err != nil {
		return nil, err
	}
	r := &remoteFile{ctx: ctx, name: f.name, seen: f.info, log: b.log}
	err = r.repeat(func() (err error) {
		r.object, err = store.Open(ctx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.seen.Size = r.object.Size()
	return r, nil
}

func (r *remoteFile) Close() error        { return r.object.Close() }
func (r *remoteFile) stat() (info, error) { return r.seen, nil }

func (r *remoteFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = r.repeat(func() error {
		n, err = r.object.ReadAt(p, off)
		if err == io.EOF {
			return nil
		}
		return err
	})
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Back-off between two attempts to reach S3.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
)

// repeat calls fn until it succeeds, for ever: a stall is visible as lag. What no retry mends ends it.
func (r *remoteFile) repeat(fn func() error) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := fn()
		var fatal *stream.FatalError
		switch {
		case err == nil, errors.As(err, &fatal):
			return err
		case r.ctx.Err() != nil:
			return r.ctx.Err()
		case errors.Is(err, objects.ErrNotFound):
			return stream.Fatal(fmt.Errorf("%s was deleted before it was read to its end: %w", r.name, err))
		case otherVersion(err):
			return stream.Fatal(fmt.Errorf("%s was replaced while it was read: %w; start again to read it as on_change says", r.name, err))
		}
		if pause == firstPause || pause == lastPause {
			r.log.Warn("read fails and is repeated", "file", r.name, "error", err)
		}
		select {
		case <-time.After(pause):
		case <-r.ctx.Done():
			return r.ctx.Err()
		}
	}
}

// otherVersion says that the entity tag is no longer that of the object that was opened.
func otherVersion(err error) bool {
	var status interface{ HTTPStatusCode() int }
	return errors.As(err, &status) && status.HTTPStatusCode() == 412
}

// remoteChunk is how much one request asks for.
const remoteChunk = 4 << 20

func (r *remoteFile) sequential(off int64) io.ReadCloser {
	a := &ahead{file: r, off: off}
	a.request()
	return a
}

// ahead reads the next chunk of a remote file while the last one is used.
type ahead struct {
	file  *remoteFile
	off   int64 // of the next request
	next  chan chunk
	chunk []byte
	err   error
}

type chunk struct {
	data []byte
	err  error
}

func (a *ahead) request() {
	next := make(chan chunk, 1)
	a.next = next
	off, size := a.off, min(remoteChunk, a.file.seen.Size-a.off)
	if size <= 0 {
		next <- chunk{err: io.EOF}
		return
	}
	a.off += size
	go func() { // ends with its request: Close waits for it
		data := make([]byte, size)
		n, err := a.file.ReadAt(data, off)
		if n == len(data) {
			err = nil
		}
		next <- chunk{data[:n], err}
	}()
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.chunk) == 0 {
		if a.err != nil {
			return 0, a.err
		}
		c := <-a.next
		a.next = nil
		a.chunk, a.err = c.data, c.err
		if a.err == nil {
			a.request()
		}
	}
	n := copy(p, a.chunk)
	a.chunk = a.chunk[n:]
	return n, nil
}

func (a *ahead) Close() error {
	if a.next != nil {
		<-a.next
		a.next = nil
	}
	return nil
}
