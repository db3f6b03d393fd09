package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/millrace-io/millrace/stream"
)

func gzipOf(t testing.TB, text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zstdOf(t testing.TB, text string) string {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return string(z.EncodeAll([]byte(text), nil))
}

func TestFormatIsToldByTheFirstBytes(t *testing.T) {
	lines := numbered(0, 1000)
	half, rest := joined(lines[:500]), joined(lines[500:])
	for name, content := range map[string]string{
		"a.jsonl.gz":  half + rest, // the name lies
		"b.jsonl":     gzipOf(t, half) + gzipOf(t, "") + gzipOf(t, rest),
		"c.log":       zstdOf(t, half) + zstdOf(t, rest),
		"d.log":       "\x52\x2a\x4d\x18\x04\x00\x00\x00skip" + zstdOf(t, half+rest),
		"e.plain":     half + rest,
		"f.sixteenth": gzipOf(t, half+rest[:len(rest)-1]),
	} {
		w := newWorld(t, Config{})
		w.every = 60
		w.write("in/"+name, content)
		random := newRandom(t)
		at := 0
		w.crash = func(_ string, n int) bool { return n == at }
		for range 5 {
			at = 1 + random.IntN(1000)
			w.runFor()
		}
		w.crash = nil
		w.finish()
		w.holds("in/"+name, lines...)
	}
}

func TestPositionsDoNotDependOnTheFormat(t *testing.T) {
	content := joined(numbered(0, 200))
	var want []stream.Position
	for _, packed := range []string{content, gzipOf(t, content), zstdOf(t, content)} {
		w := newWorld(t, Config{})
		w.write("in/a", packed)
		w.finish()
		got := w.parts[w.partition("in/a")].positions
		if want == nil {
			want = got
		}
		if !slices.Equal(got, want) {
			t.Errorf("positions differ")
		}
	}
}

func TestDamagedFileFailsAfterWhatIsBefore(t *testing.T) {
	lines := numbered(0, 20_000)
	first, second := joined(lines[:9_000]), joined(lines[9_000:])
	for name, pack := range map[string]func(testing.TB, string) string{"gzip": gzipOf, "zstd": zstdOf} {
		whole := pack(t, first) + pack(t, second)
		for kind, content := range map[string]string{
			"damaged":       pack(t, first) + "XX" + pack(t, second),
			"in the middle": whole[:len(whole)-20],
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				w := newWorld(t, Config{})
				w.every = 0
				w.write("in/a", content)
				err := w.fails("in/a", kind, "after byte")
				if fatal := (*stream.FatalError)(nil); !errors.As(err, &fatal) {
					t.Errorf("%v is not fatal", err)
				}
				got := w.parts[w.partition("in/a")].lines
				if len(got) < 9_000 || !slices.Equal(got, lines[:len(got)]) {
					t.Errorf("%d lines before the damage are committed", len(got))
				}
				w.write("in/a", whole)
				w.finish()
				w.holds("in/a", lines...)
			})
		}
	}
}

// A decompressor may deliver wrong bytes for a while before it notices: nothing can tell, but it must end in an error.
func TestFlippedBitsAreNeverPassedOver(t *testing.T) {
	random := newRandom(t)
	lines := numbered(0, 5_000)
	for name, pack := range map[string]func(testing.TB, string) string{"gzip": gzipOf, "zstd": zstdOf} {
		for range 20 {
			w := newWorld(t, Config{})
			w.every = 0
			broken := []byte(pack(t, joined(lines)))
			at := 10 + random.IntN(len(broken)-10)
			broken[at] ^= 1 << random.IntN(8)
			w.write("in/a", string(broken))
			if err := w.runFor(); err == nil && !slices.Equal(w.parts[w.partition("in/a")].lines, lines) {
				t.Errorf("%s with byte %d broken is taken for whole", name, at)
			}
		}
	}
}

// growing is a file that grows once its first bytes are looked at.
type growing struct {
	handle
	grow func()
}

func (g *growing) ReadAt(p []byte, off int64) (int, error) {
	n, err := g.handle.ReadAt(p, off)
	if g.grow != nil {
		g.grow()
		g.grow = nil
	}
	return n, err
}

// A file of two bytes may be anything. What comes between the look at them and the reading is not read as plain text.
func TestFileThatIsTooShortToTellIsNotReadOnAsPlain(t *testing.T) {
	packed := gzipOf(t, "a\nb\n")
	path := filepath.Join(t.TempDir(), "a")
	appendTo(t, path, packed[:2])
	file, err := openLocal(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{file: &growing{file, func() { appendTo(t, path, packed[2:]) }}, cfg: new(Config)}
	r.cfg.EnsureDefaults()
	defer r.close()
	read := func(want string) {
		t.Helper()
		if err := errors.Join(r.detect(), r.seek(t.Context(), 0)); err != nil {
			t.Fatal(err)
		}
		r.begin()
		if err := r.split.fill(100); !errors.Is(err, io.EOF) || string(r.split.buf) != want {
			t.Errorf("it reads %q, %v; want %q", r.split.buf, err, want)
		}
	}
	read(packed[:2])
	read("a\nb\n")
}

func TestCompressedFileThatIsBeingWrittenIsFollowed(t *testing.T) {
	random := newRandom(t)
	var lines []string
	for range 60_000 { // does not compress well, so half of the file holds many blocks
		lines = append(lines, fmt.Sprintf("%x", random.Uint64()))
	}
	for name, pack := range map[string]func(testing.TB, string) string{"gzip": gzipOf, "zstd": zstdOf} {
		w := newWorld(t, Config{Follow: true})
		w.every = 5000
		packed := pack(t, joined(lines[:40_000]))
		w.write("in/"+name, packed[:2])
		stop := w.start()
		w.append("in/"+name, packed[2:len(packed)/2])
		w.delivered("in/"+name, 1000)
		w.append("in/"+name, packed[len(packed)/2:])
		w.delivered("in/"+name, 40_000)
		w.append("in/"+name, pack(t, joined(lines[40_000:50_000])))
		w.delivered("in/"+name, 50_000)
		w.append("in/"+name, pack(t, joined(lines[50_000:])))
		w.delivered("in/"+name, 60_000)
		if err := stop(); err != nil {
			t.Error(err)
		}
		w.holds("in/"+name, lines...)
	}
}

func TestHeaderLineIsNoRecordAndOnEachOne(t *testing.T) {
	for _, content := range []string{"\xef\xbb\xbfid,\"a\nb\"\r\n1,x\n2,y\n3,z\n4,z\n", "id,\"a\nb\"\n"} {
		w := newWorld(t, Config{Header: CSV, Multiline: CSV})
		w.write("in/a", content)
		w.crash = func(_ string, n int) bool { return n == 4 }
		w.runFor()
		w.crash = nil
		w.finish()
		p := w.part(w.partition("in/a"))
		if want := strings.Count(content, "\n") - 2; len(p.lines) != want {
			t.Errorf("lines %q; want %d", p.lines, want)
		}
		for _, h := range p.headers {
			if h != "id,\"a\nb\"" {
				t.Errorf("header %q", h)
			}
		}
		w.readAgain()
	}
}

func TestLongRecordIsPassedOverWhole(t *testing.T) {
	w := newWorld(t, Config{MaxRecord: 1000})
	w.every = 1
	content := "a\n" + strings.Repeat("x", 700_000) + "\nb\n"
	w.write("in/a", content)
	w.crash = func(_ string, n int) bool { return n == 2 }
	w.runFor()
	w.crash = nil
	w.finish()
	w.append("in/a", "c\n")
	w.finish()
	w.holds("in/a", "a", strings.Repeat("x", 1000), "b", "c")
	if p := w.part(w.partition("in/a")); !strings.Contains(p.errs[1], "700000 bytes at byte 2") {
		t.Errorf("errors %q", p.errs)
	}
	w.readAgain()
}

// BenchmarkDeliver is the way from a file to Deliver.
func BenchmarkDeliver(b *testing.B) {
	line := `{"id":"` + strings.Repeat("0123456789", 48) + `"}` + "\n"
	content := strings.Repeat(line, (128<<20)/len(line))
	for _, bench := range []struct{ name, content string }{
		{"plain", content},
		{"short lines", strings.Repeat("0123456789012345678901234567890123456789\n", (64<<20)/41)},
		{"gzip", gzipOf(b, content)},
		{"zstd", zstdOf(b, content)},
		{"quoted csv", strings.Repeat(`1,"a, b",2010-12-01 08:26:00,2.55,17850,"United Kingdom"`+"\n", (64<<20)/57)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			dir := b.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "a"), []byte(bench.content), 0o666); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			records := 0
			for i := range b.N {
				c := config(func(c *Config) {
					c.Paths, c.Checkpoints = []string{filepath.Join(dir, "a")}, filepath.Join(dir, fmt.Sprint("checkpoints", i))
					if bench.name == "quoted csv" {
						c.Multiline = CSV
					}
				})
				n := &counter{}
				if err := New(*c, "bench", nil).Run(b.Context(), func(stream.Assignment) (stream.Consumer, error) { return n, nil }); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(n.bytes)
				records = n.records
			}
			b.ReportMetric(float64(records), "records/op")
		})
	}
}

type counter struct {
	bytes   int64
	records int
}

func (c *counter) Start() (stream.Position, bool) { return stream.Position{}, false }
func (c *counter) Deliver(_ context.Context, rs []stream.Record) error {
	for i := range rs {
		c.bytes += int64(len(rs[i].Value)) + 1
	}
	c.records += len(rs)
	return nil
}
func (c *counter) Drain(context.Context, stream.Why) error { return nil }
func (c *counter) Abort()                                  {}
