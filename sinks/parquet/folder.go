package parquet

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/stream"
)

// Folders that are made of event_time, in UTC.
const (
	dateFolder = "date"
	hourFolder = "hour"
)

const defaultFolder = "__HIVE_DEFAULT_PARTITION__" // of null, in Hive and all who came after

// folder is one level of the hive partitioning.
type folder struct {
	name   string
	column int // in stream.Schema
	typ    stream.Type
}

func (f folder) ofTime() bool { return f.name == dateFolder || f.name == hourFolder }

func newFolders(names []string, s *stream.Schema) ([]folder, error) {
	var folders []folder
	for _, name := range names {
		f := folder{name: name, column: stream.Time}
		if !f.ofTime() {
			i, ok := s.Lookup(name)
			if !ok {
				return nil, fmt.Errorf("partition_by names %q, which is no column", name)
			}
			c := s.Columns[i]
			f = folder{name: c.Name, column: i, typ: c.Type}
			if f.typ.Kind == stream.List || f.typ.Kind == stream.JSON || isOurs(f.name) {
				return nil, fmt.Errorf("partition_by names %q, a column of type %s, which makes no folder", name, f.typ)
			}
		}
		if slices.ContainsFunc(folders, func(other folder) bool { return other.name == f.name }) {
			return nil, fmt.Errorf("partition_by names the column %q twice", f.name)
		}
		folders = append(folders, f)
	}
	return folders, nil
}

// appendID appends what tells e's folder from others. It is called for every event, so it formats no dates.
func appendID(dst []byte, folders []folder, e *stream.Event) []byte {
	for i := range folders {
		f := &folders[i]
		v := e.Values[f.column]
		switch {
		case v.IsNull():
			dst = append(dst, 0)
		case f.name == dateFolder:
			dst = appendNumber(append(dst, 1), floorDiv(v.Int(), 24*hour))
		case f.name == hourFolder:
			dst = append(dst, 1, byte(floorDiv(v.Int(), hour)-24*floorDiv(v.Int(), 24*hour)))
		default:
			at := len(dst)
			dst = v.AppendText(append(dst, 1, 0, 0, 0, 0), f.typ)
			n := len(dst) - at - 5
			dst[at+1], dst[at+2], dst[at+3], dst[at+4] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
		}
	}
	return dst
}

const hour = int64(time.Hour / time.Microsecond)

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func appendNumber(dst []byte, n int64) []byte {
	for range 8 {
		dst = append(dst, byte(n))
		n >>= 8
	}
	return dst
}

// path is the folder of e: "date=2010-12-01/hour=08/", empty without partitioning.
func path(folders []folder, e *stream.Event) string {
	var dst []byte
	for _, f := range folders {
		dst = append(escape(dst, f.name), '=')
		dst = append(f.appendValue(dst, e.Values[f.column]), '/')
	}
	return string(dst)
}

func (f folder) appendValue(dst []byte, v stream.Value) []byte {
	if v.IsNull() {
		return append(dst, defaultFolder...)
	}
	if !f.ofTime() {
		return escapeValue(dst, string(v.AppendText(nil, f.typ)))
	}
	t := time.UnixMicro(v.Int()).UTC()
	switch {
	case t.Year() < 0 || t.Year() > 9999:
		return append(dst, defaultFolder...)
	case f.name == dateFolder:
		return t.AppendFormat(dst, "2006-01-02")
	}
	return t.AppendFormat(dst, "15")
}

// longestValue keeps a folder's name below the 255 bytes of file systems.
const longestValue = 160

func escapeValue(dst []byte, value string) []byte {
	if value == "" {
		return append(dst, defaultFolder...)
	}
	from := len(dst)
	dst = escape(dst, value)
	if len(dst)-from <= longestValue {
		return dst
	}
	cut := from + longestValue - 10
	for i := 1; i <= 2; i++ { // not in the middle of %XX
		if dst[cut-i] == '%' {
			cut -= i
			break
		}
	}
	for !utf8.RuneStart(dst[cut]) {
		cut--
	}
	return fmt.Appendf(dst[:cut], "~%08x", crc32.ChecksumIEEE([]byte(value)))
}

// escape appends text with %XX for what Hive and Spark escape, and for bytes that are no UTF-8.
func escape(dst []byte, text string) []byte {
	for i, r := range text {
		_, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 || r < 0x20 || r == 0x7f || r < 0x80 && strings.IndexByte("\"#%'*/:=?\\{}[]^", byte(r)) >= 0 {
			dst = fmt.Appendf(dst, "%%%02X", text[i])
		} else {
			dst = append(dst, text[i:i+n]...)
		}
	}
	return dst
}
