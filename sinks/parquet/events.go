package parquet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// Events calls visit with the events of the published files of a pipeline that want accepts, in the order of the log within each
// file; files come in any order, from one goroutine. An event has its values by columns, its properties, and of its record
// the position and the time; key, value and headers are not in a lake. It is valid until visit returns.
func (s *Sink) Events(ctx context.Context, pipeline string, columns *stream.Schema, want func(stream.Provenance) bool,
	visit func(stream.Provenance, *stream.Event) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opened := s.openAll(ctx)
	defer func() {
		cancel()
		for o := range opened {
			o.close()
		}
	}()
	for o := range opened {
		err := o.err
		if err == nil && o.prov.Pipeline == pipeline && want(o.prov) {
			err = o.rows(ctx, columns, func(leaf) bool { return true }, func(e *stream.Event) error {
				if v := e.Values[stream.Received]; !v.IsNull() {
					e.Record.Time = time.UnixMicro(v.Int()).UTC()
				}
				return visit(o.prov, e)
			})
		}
		o.close()
		switch {
		case errors.Is(err, objects.ErrNotFound), errors.Is(err, errNotOurs): // removed since it was listed; of somebody else
		case err != nil && o.key == "":
			return err
		case err != nil:
			return fmt.Errorf("read %s: %w", o.key, err)
		}
	}
	return ctx.Err()
}
