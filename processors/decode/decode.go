// Package decode turns records into events: JSON, CSV, and the access logs of Apache and Nginx.
//
// Read config.go first (what a pipeline file says), then mapping.go (which property becomes which column), row.go (how a
// value becomes a cell) and json.go. The three formats differ only in how they cut a record into properties.
//
// # Rules
//
// An error is final for its record, which becomes a dead letter with the error, the original bytes and the position. Nothing
// is cut off, rounded or guessed; a text is changed in one case only, which the table names, because otherwise readers of
// the lake fail on the whole file.
//
//	what comes                                      what becomes of it
//	----------------------------------------------  ------------------------------------------------------------------
//	no bytes, or only white space                   dead letter
//	{}                                              kept: an event of the record's time
//	[], [ [...] ], [ 7 ], 7, "x", null              dead letter; an array of objects is an event for each of them, and
//	                                                all of them share one fate
//	bytes after the value, a byte order mark        dead letter
//	an event of 1 MiB and more                      kept; the source and the pipeline's memory set the limit
//	objects and arrays in each other                kept up to 512, deeper ones are dead letters
//	a name twice                                    the last one wins; inside a property that is kept whole, both stay
//	bytes that are not UTF-8, half of a surrogate   kept, each with U+FFFD in its place, in columns and properties;
//	pair (\ud83d), the character NUL (\u0000)       dead letter in event_id, user_id, anonymous_id, session_id, item_id,
//	                                                items and recommendation_id, where two names could become one
//	control characters in a JSON string             dead letter if raw, kept if escaped
//	null                                            null, and for the time as if it were missing
//	"" in JSON                                      kept for a column of type string, else dead letter
//	an empty field of CSV                           null; in a declared column of type string and in the properties: ""
//	a number for a column of type string or list    its text as it is written: 17850.0
//	a text for int, float, decimal, timestamp       the number that it writes exactly: "2.50"; else dead letter
//	another type than the column's                  dead letter: price: true is not a float
//	1.0 and 1e3 for an int                          1 and 1000; a fraction, or beyond 64 bits: dead letter
//	a float with more digits than 64 bits hold      the nearest float; beyond 1.8e308: dead letter
//	a decimal with too many digits                  dead letter, on both sides of the point; zeros at the end do not count
//	any number without a column                     kept in the properties with all its digits
//	a time in the years 1 to 9999                   kept, in microseconds; further digits are cut off. Tools that count
//	                                                nanoseconds in 64 bits read 1678 to 2261 only
//	a time in another year, or unreadable           dead letter
//	no time                                         event_time is the record's time; dead letter if that is unknown too
//	no event_id                                     null: the position is the event's identity
//
// received_at is the record's time, null where the source does not know it. bot is judged by user_agent, null without one: see
// crawlers.txt. Neither is read from the input, where properties of these names are properties like any others.
//
// # Properties
//
// What no column took stays, as the text of a JSON object: numbers with their digits, escapes, white space and order as they
// came. Of an object that a path goes into (page.url) the other members stay. Empty when nothing is left.
//
// # CSV
//
// A record is one line, without a line end or with one. A quoted field may have line ends in it if the source delivers such a
// record whole. Quotes are as in RFC 4180, and errors as in encoding/csv. The names of the fields are in the pipeline file, or
// in the record's header CSVHeader.
//
// # Access logs
//
// The format combined reads lines of the combined and of the common log format as the properties remote_host, ident,
// remote_user, time, method, path, protocol, status, bytes, referrer and user_agent, extra (what stands behind), and request
// instead of method, path and protocol where a client sent something else. Columns by default: ip of remote_host, user_id of
// remote_user, event_time of time, url of path, referrer and user_agent. Escapes (\" \\ \x41) are undone.
//
// # Errors
//
// They name the column, or the byte where the syntax is wrong, counted from 0, and at most 48 bytes of the payload.
package decode

import (
	"github.com/millrace-io/millrace/stream"
)

// New returns a maker of decoders, one for each partition. The schema is that of Schema, or one that begins with its columns.
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
