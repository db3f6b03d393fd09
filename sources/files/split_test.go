package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

func config(change func(*Config)) *Config {
	c := &Config{Paths: []string{"x"}}
	if change != nil {
		change(c)
	}
	c.EnsureDefaults()
	return c
}

// cut is all records of a text, as "offset value" and for one with an error "offset! value".
func cut(t testing.TB, r io.Reader, c *Config) []string {
	t.Helper()
	s := newSplitter(r, 0, newDigest(0, 0), c)
	var got []string
	for {
		for {
			p, ok := s.next()
			if !ok {
				break
			}
			mark := ""
			if p.err != nil {
				mark = "!"
			}
			got = append(got, fmt.Sprintf("%d%s %s", p.offset, mark, p.value))
		}
		if s.final {
			return got
		}
		if err := s.fill(10); err == io.EOF {
			s.final = true
		} else if err != nil && !errors.Is(err, errLater) {
			t.Fatal(err)
		}
	}
}

func TestRecordsAreLines(t *testing.T) {
	csv := func(c *Config) { c.Multiline = CSV }
	short := func(c *Config) { c.MaxRecord = 5 }
	for _, test := range []struct {
		text   string
		change func(*Config)
		want   []string
	}{
		{"", nil, nil},
		{"\n\r\n\n", nil, nil},
		{"a", nil, []string{"0 a"}},
		{"a\nb\r\nc", nil, []string{"0 a", "2 b", "5 c"}},
		{"a\r\r\nb\r", nil, []string{"0 a\r", "4 b"}},
		{"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", nil, []string{"3 a", "5 \xef\xbb\xbfb"}},
		{"\xef\xbb\xbf", nil, nil},
		{"\xef\xbb", nil, []string{"0 \xef\xbb"}},
		{"a\x00b\n\x00\n", nil, []string{"0 a\x00b", "4 \x00"}},
		{"12345\n123456\n12345\r\n123456", short, []string{"0 12345", "6! 12345", "13 12345", "20! 12345"}},
		{"a,\"b\nc\"\nd\n", nil, []string{"0 a,\"b", "5 c\"", "8 d"}},
		{"a,\"b\nc\"\nd\n", csv, []string{"0 a,\"b\nc\"", "8 d"}},
		{"a,\"b\n\n\"\"c\r\n\",x\r\nd\n", csv, []string{"0 a,\"b\n\n\"\"c\r\n\",x", "16 d"}},
		{"5\" pipe\nd\n", csv, []string{"0 5\" pipe", "8 d"}},
		{"\"x\"\"\"\n\"y\"\n", csv, []string{"0 \"x\"\"\"", "6 \"y\""}},
		{"a,\"b\nc\nd", csv, []string{"0! a,\"b", "5 c", "7 d"}},
		{"\"b\ncd\nef\ngh\n", func(c *Config) { csv(c); short(c) }, []string{"0! \"b", "3 cd", "6 ef", "9 gh"}},
		{"a;\"b\nc\";d\n", func(c *Config) { csv(c); c.Delimiter = ";" }, []string{"0 a;\"b\nc\";d"}},
	} {
		for name, r := range map[string]io.Reader{"at once": strings.NewReader(test.text), "byte by byte": &jumpy{[]byte(test.text), one}} {
			if got := cut(t, r, config(test.change)); !slices.Equal(got, test.want) {
				t.Errorf("%q %s: %q; want %q", test.text, name, got, test.want)
			}
		}
	}
}

func TestLongRecordSaysWhereAndHowLong(t *testing.T) {
	long := strings.Repeat("x", 700_000)
	s := newSplitter(strings.NewReader("a\n"+long+"\nb\n"), 0, newDigest(0, 0), config(func(c *Config) { c.MaxRecord = 300_000 }))
	var p piece
	for ok := false; !ok || p.err == nil; p, ok = s.next() {
		if !ok {
			s.final = s.fill(chunkSize) == io.EOF
		}
	}
	if !errors.Is(p.err, errLong) || !strings.Contains(p.err.Error(), "700000 bytes at byte 2") || len(p.value) != keptOfBig {
		t.Errorf("%v with %d bytes", p.err, len(p.value))
	}
}

// TestRecordsDoNotDependOnHowBytesArrive compares random reads with one read, and checks that the values never change.
func TestRecordsDoNotDependOnHowBytesArrive(t *testing.T) {
	random := newRandom(t)
	for range 300 {
		var b bytes.Buffer
		for range random.IntN(400) {
			b.WriteString([]string{"a", "bb", "\n", "\r\n", ",", "\"", "\"\"", ",\"", "\",", strings.Repeat("long", 9)}[random.IntN(10)])
		}
		c := config(func(c *Config) {
			c.Multiline = []string{None, CSV}[random.IntN(2)]
			c.MaxRecord = int64(1 + random.IntN(60))
		})
		want := cut(t, strings.NewReader(b.String()), c)
		if got := cut(t, &jumpy{b.Bytes(), func() int { return 1 + random.IntN(20) }}, c); !slices.Equal(got, want) {
			t.Fatalf("%q with max %d, %s:\n%q; want\n%q", b.String(), c.MaxRecord, c.Multiline, got, want)
		}
	}
}

// errLater says that there is more, as at the end of a file that grows.
var errLater = errors.New("there is more")

// jumpy has no more than a few bytes at a time.
type jumpy struct {
	left []byte
	size func() int
}

func one() int { return 1 }

func (j *jumpy) Read(p []byte) (int, error) {
	if len(j.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, j.left[:min(len(j.left), j.size())])
	j.left = j.left[n:]
	return n, errLater
}

func TestMarkTellsContentsApart(t *testing.T) {
	random := newRandom(t)
	data := make([]byte, 400_000)
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	for _, end := range []int{1, 100, blockSize - 1, blockSize, blockSize + 1, 2 * blockSize, 3*blockSize + 7, len(data)} {
		whole := newDigest(0, 0)
		for rest := data[:end]; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(100_000))
			whole.write(rest[:n])
			rest = rest[n:]
		}
		m := whole.mark()
		file := &memory{data: bytes.Clone(data)}
		r := &reader{file: file, cfg: config(nil), format: plain}
		if err := r.verify(t.Context(), m); err != nil {
			t.Errorf("end %d: %v", end, err)
		}
		for _, at := range []int{0, end / 2, end - 1} {
			seen := at < blockSize || int64(at) >= tailStart(int64(end))
			file.data[at] ^= 1
			if err := r.verify(t.Context(), m); errors.Is(err, errChanged) != seen {
				t.Errorf("end %d: byte %d changed: %v", end, at, err)
			}
			file.data[at] ^= 1
		}
		file.data = file.data[:end-1]
		if err := r.verify(t.Context(), m); !errors.Is(err, errChanged) {
			t.Errorf("end %d: one byte less: %v", end, err)
		}
		r.text.close()
	}
}

// memory is a handle of bytes.
type memory struct{ data []byte }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(p, off)
}
func (m *memory) Close() error                       { return nil }
func (m *memory) stat() (info, error)                { return info{Size: int64(len(m.data))}, nil }
func (m *memory) sequential(off int64) io.ReadCloser { return &cursor{m, off} }

func FuzzSplitter(f *testing.F) {
	f.Add([]byte("a,\"b\nc\"\nd\n"), uint16(20))
	f.Add([]byte("\xef\xbb\xbf\"\n\n\"\"\r\n"), uint16(3))
	f.Fuzz(func(t *testing.T, data []byte, longest uint16) {
		for _, multiline := range []string{None, CSV} {
			c := config(func(c *Config) { c.Multiline, c.MaxRecord = multiline, int64(longest)+1 })
			want := cut(t, bytes.NewReader(data), c)
			if got := cut(t, &jumpy{data, one}, c); !slices.Equal(got, want) {
				t.Errorf("%q; want %q", got, want)
			}
		}
	})
}
