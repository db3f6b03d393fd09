package bulk

import (
	"context"
	"hash/maphash"

	"github.com/millrace-io/millrace/stream"
)

// SampleOf is one in how many keys a check looks at that is not deep.
const SampleOf = 16

// Expected is what the newest event of a key makes of its row.
type Expected[Row any] struct {
	Place stream.Place
	Row   Row
}

// Expect is the rows that the committed events make, by the key that the encoder of their partition writes: those of the event
// that is the latest by o. Without deep it is a sample of the keys. What stands in the dead letters makes none. Row makes a row of
// what the encoder wrote; the bytes are valid until it returns.
func Expect[Row any](ctx context.Context, l stream.Lake, o stream.Ordering, deep bool,
	encoder func(partition string) (Encoder, error), row func(place stream.Place, e *stream.Event, body []byte) (Row, error),
) (map[string]Expected[Row], error) {
	seed := maphash.MakeSeed()
	want := map[string]Expected[Row]{}
	encoders := map[string]Encoder{}
	var key, body []byte
	err := l.Events(ctx, func(partition string, e *stream.Event) (err error) {
		enc := encoders[partition]
		if enc == nil {
			if enc, err = encoder(partition); err != nil {
				return err
			}
			encoders[partition] = enc
		}
		if key, body, err = enc.Encode(key[:0], body[:0], e); err != nil || l.Refused(partition, e.Record.Pos) {
			return nil //nolint:nilerr // it stands in the dead letters
		}
		if !deep && maphash.Bytes(seed, key)%SampleOf != 0 {
			return nil
		}
		place := stream.PlaceOf(partition, e)
		if old, there := want[string(key)]; there && !o.Later(place, old.Place) {
			return nil
		}
		r, err := row(place, e, body)
		want[string(key)] = Expected[Row]{place, r}
		return err
	})
	return want, err
}
