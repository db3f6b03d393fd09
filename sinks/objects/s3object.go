package objects

import (
	"context"
	"io"
	"sync"
)

// readAhead is the least that one request reads, in bytes. An object of that size is read at once, and so are the footers
// and page indexes at the end of a larger one.
const readAhead = 1 << 20

// remoteObject reads an object of a bucket in ranges, and keeps the last one. Concurrent reads wait for each other.
type remoteObject struct {
	ctx  context.Context // of Open: io.ReaderAt has no place for it
	b    *bucket
	key  string
	size int64
	etag *string
	meta map[string]string

	mu   sync.Mutex
	data []byte // the object's bytes from off
	off  int64
}

func (o *remoteObject) Size() int64                 { return o.size }
func (o *remoteObject) Metadata() map[string]string { return o.meta }
func (o *remoteObject) Close() error                { return nil }

func (o *remoteObject) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= o.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), o.size-off)]
	o.mu.Lock()
	defer o.mu.Unlock()
	if end := off + int64(len(want)); off < o.off || end > o.off+int64(len(o.data)) {
		if err := o.load(off, end); err != nil {
			return 0, err
		}
	}
	n := copy(want, o.data[off-o.off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// load fills data with at least the bytes from off to end: what comes after them too, or before them at the end.
func (o *remoteObject) load(off, end int64) error {
	from := off
	if off+readAhead >= o.size {
		from = max(0, o.size-readAhead)
	}
	to := max(end, min(from+readAhead, o.size))
	data := make([]byte, to-from)
	if err := o.b.fetch(o.ctx, o.key, o.etag, data, from); err != nil {
		return err
	}
	o.data, o.off = data, from
	return nil
}
