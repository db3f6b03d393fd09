package objects

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/millrace-io/millrace/stream"
)

// Overflow keeps receipts that do not fit into the Note under <prefix>/_millrace/receipts/ of the store; prefix may be empty.
func Overflow(s Store, prefix string) stream.Overflow {
	return overflow{store: s, prefix: path.Join(prefix, "_millrace", "receipts")}
}

type overflow struct {
	store  Store
	prefix string
}

func (o overflow) Put(ctx context.Context, name string, data []byte) error {
	return o.store.Put(ctx, path.Join(o.prefix, name), data)
}

// Get fails for good when the object is gone: the commit that names it cannot be published, and going on would lose it.
func (o overflow) Get(ctx context.Context, name string) ([]byte, error) {
	data, err := o.store.Get(ctx, path.Join(o.prefix, name))
	if errors.Is(err, ErrNotFound) {
		return nil, stream.Fatal(fmt.Errorf("the receipts of the last commit were removed behind our back from %s: %w", o.store, err))
	}
	return data, err
}

func (o overflow) Delete(ctx context.Context, name string) error {
	return o.store.Delete(ctx, path.Join(o.prefix, name))
}
