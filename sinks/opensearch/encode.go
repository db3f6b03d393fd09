package opensearch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/sinks/document"
	"github.com/millrace-io/millrace/stream"
)

// encoder makes the lines of a bulk request: an action, and a document.
type encoder struct {
	cfg       *Config
	o         Options
	partition string
	prefix    string // of an id that is the identity
	id        int    // column; -1: the identity
	document  *document.Encoder

	indices map[int64][]byte // names as JSON, by days since 1970
	scratch []byte
}

// maxID is OpenSearch's limit, in bytes.
const maxID = 512

func newEncoder(cfg *Config, o Options, t stream.Tenure) (*encoder, error) {
	e := &encoder{cfg: cfg, o: o, partition: t.Partition, id: -1, prefix: t.Partition + ":"}
	if len(e.prefix) > maxID-100 { // a file's path; the place is up to 73 bytes
		sum := sha256.Sum256([]byte(t.Partition))
		e.prefix = hex.EncodeToString(sum[:]) + ":"
	}
	if cfg.ID != "" {
		i, ok := t.Schema.Lookup(cfg.ID)
		if !ok {
			return nil, fmt.Errorf("id is %q, which is no column of the pipeline", cfg.ID)
		}
		e.id = i
	}
	var err error
	e.document, err = document.New(t.Schema, t.Partition, cfg.Columns)
	return e, err
}

// Encode appends the two lines. The key is the id.
func (e *encoder) Encode(key, body []byte, ev *stream.Event) ([]byte, []byte, error) {
	place := stream.PlaceOf(e.partition, ev)
	key, err := e.appendID(key, ev, place)
	if err != nil {
		return key, body, err
	}
	deleted := e.cfg.Action == "delete" || e.o.Delete != nil && e.o.Delete(ev)
	switch {
	case e.cfg.Action == "create" && (!e.o.Mend || e.id < 0):
		kind := "create"
		if e.o.Mend {
			kind = "index" // nobody else has this id
		}
		body = append(e.action(body, kind, key, ev), "}}\n"...)
		return key, append(e.document.Append(body, ev), '\n'), nil
	case e.o.Short && e.o.Ordering == stream.ByPosition && e.cfg.Action != "update" && e.cfg.Action != "create":
		version, err := version(place)
		if err != nil {
			return key, body, err
		}
		kind := `,"version_type":"external","version":`
		if e.o.Mend {
			kind = `,"version_type":"external_gte","version":`
		}
		body = append(e.action(body, "index", key, ev), kind...)
		body = append(strconv.AppendInt(body, version, 10), "}}\n"...)
		return key, append(e.values(body, ev, place, deleted), '\n'), nil
	}
	body = append(e.action(body, "update", key, ev), `,"retry_on_conflict":10}}`+"\n"...)
	body = append(body, scriptHead(e.cfg.Action, e.o)...)
	body = document.AppendString(append(body, `"p":`...), e.partition)
	body = append(place.AppendVersion(append(body, `,"v":"`...)), `","t":`...)
	body = append(strconv.AppendInt(body, place.Micros(), 10), `,"doc":`...)
	return key, append(e.values(body, ev, place, deleted), "}}}\n"...), nil
}

// action begins an action line.
func (e *encoder) action(b []byte, kind string, id []byte, ev *stream.Event) []byte {
	b = append(append(append(b, `{"`...), kind...), `":{"_index":`...)
	b = append(b, e.indexOf(ev)...)
	e.scratch = append(e.scratch[:0], id...)
	return document.AppendString(append(b, `,"_id":`...), string(e.scratch))
}

// values is what a document that is kept up to date holds: the event's, or the mark that it is deleted. A deleted document
// stays as that mark, so that neither a replay nor a zombie brings it back; readers leave out what has _deleted.
func (e *encoder) values(b []byte, ev *stream.Event, place stream.Place, deleted bool) []byte {
	if deleted {
		b = document.AppendString(append(b, `{"_deleted":true,"_partition":`...), e.partition)
		b = append(place.AppendVersion(append(b, `,"_position":"`...)), '"', '}')
	} else {
		b = e.document.Append(b, ev)
	}
	if e.o.Ordering == stream.ByTime && e.cfg.Action != "create" {
		b = strconv.AppendInt(append(b[:len(b)-1], `,"_time":`...), place.Micros(), 10)
		b = append(b, '}')
	}
	return b
}

var (
	errNoID   = errors.New("the column that names the document is empty")
	errLongID = fmt.Errorf("the column that names the document has more than %d bytes", maxID)
)

func (e *encoder) appendID(b []byte, ev *stream.Event, place stream.Place) ([]byte, error) {
	if e.id < 0 {
		return place.AppendVersion(append(b, e.prefix...)), nil
	}
	v := ev.Values[e.id]
	before := len(b)
	switch b = v.AppendText(b, stream.Type{}); {
	case len(b) == before:
		return b, errNoID
	case len(b)-before > maxID:
		return b, errLongID
	}
	return b, nil
}

// indexBits of a version are the event's number in its record.
const indexBits = 10

// version is the external version of a place whose position is a number below 2^53.
func version(p stream.Place) (int64, error) {
	n := p.Pos.Offset()
	if n >= 1<<(63-indexBits) || p.Index >= 1<<indexBits {
		return 0, fmt.Errorf("position %s has no external version: want less than 2^53, and 1,024 events in a record", p.Version())
	}
	return int64(n)<<indexBits | int64(p.Index), nil
}

const day = int64(24 * time.Hour / time.Microsecond)

// indexOf is the name of ev's index, as JSON.
func (e *encoder) indexOf(ev *stream.Event) []byte {
	us := e.timeOf(ev)
	d := us / day
	if us%day < 0 {
		d--
	}
	if name, ok := e.indices[d]; ok {
		return name
	}
	if e.indices == nil || len(e.indices) > 100 {
		e.indices = map[int64][]byte{}
	}
	t := time.UnixMicro(us).UTC()
	name := strings.NewReplacer("{date}", t.Format("2006-01-02"), "{month}", t.Format("2006-01")).Replace(e.cfg.Index)
	e.indices[d] = document.AppendString(nil, name)
	return e.indices[d]
}

// timeOf is the time that names an index: the event's own, unless it is far from the record's. An event without any counts
// as of 1970.
func (e *encoder) timeOf(ev *stream.Event) int64 {
	taken := stream.Place{Time: ev.Record.Time}.Micros()
	v := ev.Values[stream.Time]
	if v.IsNull() {
		return taken
	}
	us := v.Int()
	if skew := us - taken; !ev.Record.Time.IsZero() && (skew > e.cfg.MaxSkew.Microseconds() || -skew > e.cfg.MaxSkew.Microseconds()) {
		return taken
	}
	if us < 0 || us >= 253402300800_000_000 { // beyond the year 9999 a name is no name
		return 0
	}
	return us
}
