package kafka

import (
	"bytes"
	"encoding/ascii85"
	"encoding/hex"
	"fmt"
	"io"
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
//	mr1;<epoch>;<topic id>;<partitions>;<kind>;<note>
//
// Kind s: nothing is committed, the offset is where the partition was begun. Kind t: the note as it is, UTF-8 as
// Kafka's strings must be, for operators to read. Kind b: the note in Ascii85, for other bytes; NoteLimit fits.
type mark struct {
	next      int64 // offset of the first record after the checkpoint
	committed bool  // false: kind s
	epoch     uint64
	topic     kadm.TopicID // zero where the brokers have none (before 2.8)
	known     int32        // partitions that the topic had when this one was seen first
	note      []byte
}

const markVersion = "mr1"

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
	text := fmt.Sprintf("%s;%d;%x;%d;%s;%s", markVersion, m.epoch, m.topic[:], m.known, kind, note)
	if len(text) > metadataLimit {
		return "", fmt.Errorf("a note of %d bytes makes offset metadata of %d; the limit is %d", len(m.note), len(text), metadataLimit)
	}
	return text, nil
}

// parseMark reads a committed offset. One that another program committed, or that an operator set, has no note of ours
// and counts as committed: everything before it is done.
func parseMark(offset int64, metadata string) (mark, error) {
	m := mark{next: offset, committed: offset > 0}
	parts := strings.SplitN(metadata, ";", 6)
	if len(parts) != 6 || parts[0] != markVersion {
		return m, nil
	}
	var err error
	if m.epoch, err = strconv.ParseUint(parts[1], 10, 64); err != nil {
		return m, fmt.Errorf("offset metadata %.60q: epoch: %w", metadata, err)
	}
	if id, err := hex.DecodeString(parts[2]); err != nil || copy(m.topic[:], id) != len(m.topic) {
		return m, fmt.Errorf("offset metadata %.60q: want a topic id of %d bytes", metadata, len(m.topic))
	}
	known, err := strconv.ParseInt(parts[3], 10, 32)
	if err != nil {
		return m, fmt.Errorf("offset metadata %.60q: partitions: %w", metadata, err)
	}
	m.known = int32(known)
	switch parts[4] {
	case "s":
		m.committed = false
	case "t":
		m.note = []byte(parts[5])
	case "b":
		m.note, err = io.ReadAll(ascii85.NewDecoder(bytes.NewReader([]byte(parts[5]))))
	default:
		err = fmt.Errorf("unknown kind %q", parts[4])
	}
	if err != nil {
		return m, fmt.Errorf("offset metadata %.60q: %w", metadata, err)
	}
	return m, nil
}

// checkpoint is m as the engine sees it.
func (m mark) checkpoint() (stream.Checkpoint, bool) {
	if !m.committed || m.next <= 0 {
		return stream.Checkpoint{}, false
	}
	return stream.Checkpoint{Pos: stream.OffsetPosition(uint64(m.next - 1)), Note: m.note}, true
}
