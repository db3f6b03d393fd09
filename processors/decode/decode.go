// Package decode turns records into events.
package decode

import (
	"github.com/millrace-io/millrace/stream"
)

// New returns a maker of decoders, one for each partition. The schema is that of c.Schema.
func New(c Config, s *stream.Schema) (func() stream.Decoder, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	m, err := compile(&c, s)
	if err != nil {
		return nil, err
	}
	b := newBots(crawlers)
	switch c.Format {
	case CSV:
		return func() stream.Decoder { return newCSV(&c.CSV, m, b) }, nil
	case Combined:
		return func() stream.Decoder { return newCombined(m, b) }, nil
	}
	return func() stream.Decoder { return &jsonDecoder{newParser(m, b)} }, nil
}
