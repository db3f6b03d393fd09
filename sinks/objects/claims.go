package objects

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/millrace-io/millrace/stream"
)

// Claims is the second phase of a staged sink over a Store, for sinks to embed: it publishes and withdraws by receipts whose
// Body is a Ticket.
type Claims struct {
	Store  Store
	Suffix string // of the sink's keys; a receipt for another key is refused
}

// Publish makes a staged file visible.
func (c Claims) Publish(ctx context.Context, r stream.Receipt) error {
	t, err := c.ticket(r)
	if err != nil {
		return err
	}
	return c.Store.Publish(ctx, t)
}

// Withdraw removes a staged or published file.
func (c Claims) Withdraw(ctx context.Context, r stream.Receipt) error {
	t, err := c.ticket(r)
	if err != nil {
		return err
	}
	return c.Store.Withdraw(ctx, t)
}

func (c Claims) ticket(r stream.Receipt) (Ticket, error) {
	var t Ticket
	if err := json.Unmarshal(r.Body, &t); err != nil {
		return t, stream.Fatal(fmt.Errorf("receipt of %s: %w", r.Sink, err))
	}
	if !strings.HasSuffix(t.Key, c.Suffix) {
		return t, stream.Fatal(fmt.Errorf("receipt of %s is for %q; want a %s file", r.Sink, t.Key, c.Suffix))
	}
	return t, nil
}
