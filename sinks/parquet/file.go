package parquet

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strings"
	"unsafe"

	arrow "github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/metadata"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

const (
	suffix = ".parquet"
	magic  = "PAR1"

	// Key-value metadata of the footer. The seal is the CRC-32C of the whole footer, in 8 hexadecimal digits that are zeros
	// while it is computed; it stands last.
	provenanceKey = "millrace.provenance"
	sealKey       = "millrace.seal"
	sealDigits    = 8
)

// file is an open file: columns in memory, and an upload that has the row groups before.
type file struct {
	layout  *layout
	key     string
	columns []column
	rows    int64 // in columns
	upload  objects.Upload
	meta    *metadata.FileMetaDataBuilder // of the row groups in upload
	groups  int
	offset  int64  // bytes in upload
	sum     uint32 // CRC-32C of them
	held    int64  // memory, as last measured

	prov   stream.Provenance
	footed bool            // the footer is in upload; columns and meta are gone
	sealed *objects.Ticket // what Seal returned

	batch  []*stream.Event // of this Write
	events int             // their number, while they are being counted
}

func newFile(l *layout, upload objects.Upload, key, partition string) *file {
	f := &file{
		layout: l, key: key, upload: upload, columns: make([]column, len(l.leaves)),
		meta: metadata.NewFileMetadataBuilder(l.schema, l.props, nil),
	}
	for i := range f.columns {
		f.columns[i].leaf = &l.leaves[i]
		f.columns[i].reset(partition)
	}
	f.write([]byte(magic))
	return f
}

// write adds to the upload, which does not fail.
func (f *file) write(b []byte) {
	f.sum = crc32.Update(f.sum, crc32.MakeTable(crc32.Castagnoli), b)
	f.offset += int64(len(b))
	_, _ = f.upload.Write(b)
}

// add appends rows.
func (f *file) add(e *encoder, events []*stream.Event) {
	f.rows += int64(len(events))
	for len(events) > 0 {
		n := min(len(events), chunkRows)
		for i := range f.columns {
			f.columns[i].add(e, events[:n])
		}
		events = events[n:]
	}
}

// metadataBytes is about what the metadata of one column chunk takes on the heap.
const metadataBytes = 1 << 10

// measure returns the memory of f, and the sizes that rolling depends on: of the row group, before compression, and of the
// file as it stands.
func (f *file) measure() (held, group, size int64) {
	held = int64(unsafe.Sizeof(*f)) + int64(len(f.key)) + int64(len(f.columns))*int64(unsafe.Sizeof(column{}))
	held += int64(f.groups*len(f.layout.leaves)) * metadataBytes
	size = f.offset
	for i := range f.columns {
		c := &f.columns[i]
		held += c.memory()
		group += c.raw
		size += c.stored
	}
	return held + f.upload.Buffered(), group, size
}

// endGroup moves the row group to the upload.
func (f *file) endGroup(e *encoder, partition string) error {
	if f.rows == 0 {
		return nil
	}
	group := f.meta.AppendRowGroup()
	group.SetNumRows(int(f.rows))
	var raw int64
	for i := range f.columns {
		n, err := f.endColumn(e, &f.columns[i], group.NextColumnChunk())
		if err != nil {
			return fmt.Errorf("%s: column %s: %w", f.key, f.columns[i].leaf.name, err)
		}
		raw += n
		f.columns[i].reset(partition)
	}
	if err := group.Finish(raw, int16(f.groups)); err != nil {
		return fmt.Errorf("%s: row group %d: %w", f.key, f.groups, err)
	}
	f.groups++
	f.prov.FileRows += f.rows
	f.rows = 0
	return nil
}

// endColumn moves one column chunk and returns its bytes before compression.
func (f *file) endColumn(e *encoder, c *column, m *metadata.ColumnChunkMetaDataBuilder) (int64, error) {
	if c.entries > 0 {
		c.endPage(e)
	}
	info := metadata.ChunkMetaInfo{NumValues: c.chunk.entries, IndexPageOffset: -1}
	encodings := metadata.EncodingStats{DataEncodingStats: map[arrow.Encoding]int32{}}
	from := f.offset
	put := func(p page) {
		f.write(p.data)
		info.UncompressedSize += int64(p.raw)
	}
	if c.indexed > 0 {
		info.DictPageOffset = f.offset
		e.page = append(e.page[:0], c.dict.data...)
		put(e.finish(dictionaryPage, c.dict.len(), plainDictionary))
		encodings.DictEncodingStats = map[arrow.Encoding]int32{arrow.Encodings.PlainDict: 1}
		encodings.DataEncodingStats[arrow.Encodings.PlainDict] = c.indexed
		if c.leaf.pruned {
			c.stats.observe(text, c.dict.data)
		}
	}
	info.DataPageOffset = f.offset
	for _, p := range c.pages {
		put(p)
	}
	plainPages := int32(len(c.pages)) - c.indexed
	if plainPages > 0 {
		encodings.DataEncodingStats[arrow.Encodings.Plain] = plainPages
	}
	info.CompressedSize = f.offset - from
	m.SetStats(c.statistics())
	return info.UncompressedSize, m.Finish(info, c.indexed > 0, c.indexed > 0 && plainPages > 0, encodings, nil)
}

// finish writes the footer. p is the commit's provenance with the numbers of this file.
func (f *file) finish(e *encoder, p stream.Provenance) error {
	if f.footed {
		return nil
	}
	if err := f.endGroup(e, p.Partition); err != nil {
		return err
	}
	p.Key, p.FileRows, p.Data = f.key, f.prov.FileRows, f.sum
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("%s: provenance: %w", f.key, err)
	}
	footer, err := f.footer(string(text))
	if err != nil {
		return fmt.Errorf("%s: footer: %w", f.key, err)
	}
	f.write(footer)
	f.prov, f.footed, f.columns, f.meta = p, true, nil, nil
	return nil
}

func (f *file) footer(provenance string) ([]byte, error) {
	for _, kv := range [][2]string{{provenanceKey, provenance}, {sealKey, strings.Repeat("0", sealDigits)}} {
		if err := f.meta.AppendKeyValueMetadata(kv[0], kv[1]); err != nil {
			return nil, err
		}
	}
	m, err := f.meta.Finish()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if _, err := m.WriteTo(&b, nil); err != nil {
		return nil, err
	}
	footer := binary.LittleEndian.AppendUint32(b.Bytes(), uint32(b.Len()))
	footer = append(footer, magic...)
	at, err := findSeal(footer)
	if err != nil {
		return nil, err
	}
	copy(footer[at:], sealOf(footer))
	return footer, nil
}

// sealOf is the seal of a footer that has zeros in its place.
func sealOf(footer []byte) string {
	return fmt.Sprintf("%0*x", sealDigits, crc32.Checksum(footer, crc32.MakeTable(crc32.Castagnoli)))
}

// findSeal returns where the seal's digits stand in a footer.
func findSeal(footer []byte) (int, error) {
	// After the key, Thrift has the header of field 2, a string, and its length. No text of the provenance looks like that,
	// because JSON escapes control characters.
	key := []byte(sealKey + "\x18" + string(rune(sealDigits)))
	at := bytes.LastIndex(footer, key)
	if at < 0 || at+len(key)+sealDigits > len(footer) {
		return 0, errNotOurs
	}
	return at + len(key), nil
}

// seal makes the file durable. It may run beside other files' seals.
func (f *file) seal(ctx context.Context) error {
	text, err := json.Marshal(f.prov)
	if err != nil {
		return fmt.Errorf("%s: provenance: %w", f.key, err)
	}
	t, err := f.upload.Seal(ctx, map[string]string{"millrace-provenance": ascii(text)})
	if err != nil {
		return fmt.Errorf("seal %s: %w", f.key, err)
	}
	f.sealed = &t
	return nil
}

// ascii escapes JSON text for HTTP headers.
func ascii(text []byte) string {
	var b strings.Builder
	for _, r := range string(text) {
		switch {
		case r < 0x80:
			b.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return b.String()
}

func (f *file) receipt() (stream.Receipt, error) {
	body, err := json.Marshal(f.sealed)
	return stream.Receipt{Sink: f.prov.Sink, Digest: f.prov.Digest(), Bytes: f.sealed.Size, Body: body}, err
}
