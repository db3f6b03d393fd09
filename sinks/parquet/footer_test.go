package parquet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// memory is a store of one object.
type memory struct {
	objects.Store
	data bytes.Buffer
}

func (m *memory) Begin(string) objects.Upload { return &memoryUpload{m: m} }

type memoryUpload struct {
	objects.Upload
	m *memory
}

func (u *memoryUpload) Write(b []byte) (int, error) { return u.m.data.Write(b) }
func (u *memoryUpload) Buffered() int64             { return 0 }

type memoryObject []byte

func (o memoryObject) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(o).ReadAt(b, at)
}
func (o memoryObject) Size() int64                 { return int64(len(o)) }
func (o memoryObject) Close() error                { return nil }
func (o memoryObject) Metadata() map[string]string { return nil }

// smallFile is a file of a few rows in two row groups.
func smallFile(t testing.TB) []byte {
	t.Helper()
	m := &memory{}
	s, err := New(m, Config{URL: "memory", PartitionBy: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	schema, err := stream.NewSchema()
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLayout(&s.cfg, schema)
	if err != nil {
		t.Fatal(err)
	}
	f := newFile(l, m.Begin(""), "a.parquet", "p")
	batch := stream.NewBatch(schema)
	e := batch.Append(&stream.Record{Pos: stream.OffsetPosition(3)})
	e.Values[stream.ID] = stream.StringValue("x")
	s.encoding(func(enc *encoder) {
		f.add(enc, []*stream.Event{e})
		if err = f.endGroup(enc, "p"); err != nil {
			return
		}
		f.add(enc, []*stream.Event{e})
		err = f.finish(enc, stream.Provenance{Pipeline: "clicks", Partition: "p"})
	})
	if err != nil {
		t.Fatal(err)
	}
	return m.data.Bytes()
}

// Whatever a file's end holds, reading it is an error that says damaged, and no panic.
func FuzzFooter(f *testing.F) {
	file := smallFile(f)
	n := int(binary.LittleEndian.Uint32(file[len(file)-8:]))
	f.Add(file[len(file)-8-n : len(file)-8])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, footer []byte) {
		check := func(o *opened, err error) {
			if err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("%v; want it to wrap ErrDamaged", err)
			}
			_ = o
		}
		// As it is, which the seal mostly refuses, and as if its seal were right.
		data := binary.LittleEndian.AppendUint32(append([]byte(magic), footer...), uint32(len(footer)))
		o := &opened{Object: memoryObject(append(data, magic...))}
		check(o, o.readFooter())
		var err error
		if o.meta, o.prov, err = parseFooter(footer); err == nil {
			err = o.checkExtent()
		}
		check(o, err)
	})
}

func TestEveryBitOfTheFooterIsSealed(t *testing.T) {
	file := smallFile(t)
	o := &opened{Object: memoryObject(file)}
	if err := o.readFooter(); err != nil {
		t.Fatal(err)
	}
	for at := o.end; at < int64(len(file)); at++ {
		for bit := range 8 {
			file[at] ^= 1 << bit
			if err := (&opened{Object: memoryObject(file)}).readFooter(); !errors.Is(err, ErrDamaged) {
				t.Fatalf("bit %d of byte %d of %d is changed, and the footer is read with %v", bit, at, len(file), err)
			}
			file[at] ^= 1 << bit
		}
	}
}
