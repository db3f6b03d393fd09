package kafka

import (
	"encoding/ascii85"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace-io/millrace/stream"
)

// metadataLimit is the brokers' default of offset.metadata.max.bytes.
const metadataLimit = 4096

// mark is what the group keeps for one partition: the offset to read next, and in its metadata
//
//	mr2;<epoch>;<topic id>;<partitions>;<gap>;<kind>;<note>
//
// Kind s: nothing is committed, the offset is where the partition was begun. Kind t: the note as it is, UTF-8 as
// Kafka's strings must be, for operators to read. Kind b: the note in Ascii85, for other bytes; NoteLimit fits.
// The gap is how many offsets before the group's hold no record, down to the checkpoint. Where a later checkpoint was there before, and
// was taken back since staged data was gone, the gap is followed by + and how much further it was: what it showed by a transaction is not
// written again.
type mark struct {
	next      int64 // offset after the checkpoint
	clear     int64 // first offset that may hold a record: the group's offset
	shown     int64 // the largest offset that next ever was
	leader    int32 // leader epoch of the last record before clear, kept by the group beside the offset; -1: unknown
	committed bool  // false: kind s
	epoch     uint64
	topic     kadm.TopicID // zero where the brokers have none (before 2.8)
	known     int32        // partitions that the topic had when this one was seen first
	note      []byte
	unstable  bool // a transaction is about to change it, or not; all else is unknown
}

const markVersion = "mr2"

// anyVersion is how all versions of Millrace begin.
var anyVersion = regexp.MustCompile(`^mr[0-9]+;`)

func (m mark) metadata() (string, error) {
	kind, note := "t", string(m.note)
	switch {
	case !m.committed:
		kind = "s"
	case !utf8.Valid(m.note):
		kind = "b"
		text := make([]byte, ascii85.MaxEncodedLen(len(m.note)))
		note = string(text[:ascii85.Encode(text, m.note)])
	}
	gap := fmt.Sprint(m.clear - m.next)
	if m.shown > m.clear {
		gap = fmt.Sprintf("%s+%d", gap, m.shown-m.clear)
	}
	text := fmt.Sprintf("%s;%d;%x;%d;%s;%s;%s", markVersion, m.epoch, m.topic[:], m.known, gap, kind, note)
	if len(text) > metadataLimit {
		return "", fmt.Errorf("a note of %d bytes makes offset metadata of %d; the limit is %d", len(m.note), len(text), metadataLimit)
	}
	return text, nil
}

// parseMark reads a committed offset. One that another program committed, or that an operator set, has no note of ours
// and counts as committed: everything before it is done. The leader epoch is not in the metadata.
func parseMark(offset int64, metadata string) (mark, error) {
	m := mark{next: offset, clear: offset, shown: offset, leader: -1, committed: offset > 0}
	if !anyVersion.MatchString(metadata) {
		return m, nil
	}
	err := m.parse(strings.SplitN(metadata, ";", 7))
	if err != nil {
		err = fmt.Errorf("offset metadata %.60q: %w", metadata, err)
	}
	return m, err
}

func (m *mark) parse(parts []string) (err error) {
	if len(parts) != 7 || parts[0] != markVersion {
		return errors.New("another version of Millrace wrote it")
	}
	if m.epoch, err = strconv.ParseUint(parts[1], 10, 64); err != nil {
		return fmt.Errorf("epoch: %w", err)
	}
	if id, err := hex.DecodeString(parts[2]); err != nil || copy(m.topic[:], id) != len(m.topic) {
		return fmt.Errorf("want a topic id of %d bytes", len(m.topic))
	}
	known, err := strconv.ParseInt(parts[3], 10, 32)
	if err != nil {
		return fmt.Errorf("partitions: %w", err)
	}
	m.known = int32(known)
	text, more, back := strings.Cut(parts[4], "+")
	gap, err := strconv.ParseInt(text, 10, 64)
	if err != nil || gap < 0 || gap > m.clear {
		return fmt.Errorf("gap %q; want 0 to the offset, %d", parts[4], m.clear)
	}
	if m.next, m.shown = m.clear-gap, m.clear-gap; back {
		further, err := strconv.ParseInt(more, 10, 64)
		if err != nil || further <= 0 || m.clear+further < m.clear {
			return fmt.Errorf("gap %q; want how much further the checkpoint was after +", parts[4])
		}
		m.shown = m.clear + further
	}
	switch parts[5] {
	case "s":
		m.committed = false
	case "t":
		m.note = []byte(parts[6])
	case "b":
		m.note, err = io.ReadAll(ascii85.NewDecoder(strings.NewReader(parts[6])))
	default:
		err = fmt.Errorf("unknown kind %q", parts[5])
	}
	return err
}

// checkpoint is m as the engine sees it.
func (m mark) checkpoint() (stream.Checkpoint, bool) {
	if !m.committed || m.next <= 0 {
		return stream.Checkpoint{}, false
	}
	return stream.Checkpoint{Pos: stream.OffsetPosition(uint64(m.next - 1)), Note: m.note}, true
}
