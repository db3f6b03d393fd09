package dynamodb

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
)

// asStub makes the test's program the server of BenchmarkSink.
const asStub = "MILLRACE_DYNAMODB_STUB"

// beStub answers every request at once.
func beStub() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("http://" + l.Addr().String())
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go answer(c)
	}
}

// answer is a server that does as little as one can, so that the cores are the sink's.
func answer(c net.Conn) {
	defer c.Close()
	in := bufio.NewReaderSize(c, 16<<10)
	for {
		length := 0
		for {
			line, err := in.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				break
			}
			if n, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
				length, _ = strconv.Atoi(strings.TrimSpace(n))
			}
		}
		if _, err := in.Discard(length); err != nil {
			return
		}
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: 2\r\n\r\n{}"); err != nil {
			return
		}
	}
}

// stub starts a server in another process, whose processor time does not count, and returns its URL.
func stub(b *testing.B) string {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asStub+"=yes")
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(url)
}

// used is the processor time of this process, user and system.
func used(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSink is the whole way of an event of about 500 bytes to a server in another process that answers at once:
// conditional writes where each event has a key of its own, and where keys come again as often as Newest sees them. cpu-ns/event
// is user and system time of this process.
func BenchmarkSink(b *testing.B) {
	environment(b, map[string]string{"AWS_ENDPOINT_URL_DYNAMODB": stub(b), "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"})
	schema, err := stream.NewSchema()
	if err != nil {
		b.Fatal(err)
	}
	for _, users := range []int{1 << 30, 2000} {
		b.Run(fmt.Sprintf("users=%d", users), func(b *testing.B) {
			s, err := New(Config{Table: "profiles", Key: Key{PK: "user"}}, Options{Name: "search", Schema: schema})
			if err != nil {
				b.Fatal(err)
			}
			w, err := s.Writer(stream.Tenure{Partition: "p", Schema: schema})
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			n := 0
			bytes := int64(0)
			all := sinktest.Events(schema)(0, 512)
			before := used(b)
			for b.Loop() {
				for _, e := range all {
					e.Record.Pos = stream.OffsetPosition(uint64(n))
					e.Values[stream.User] = stream.StringValue(strconv.Itoa(n % users))
					n++
				}
				w.Write(all)
				if w.Buffered() > 16<<20 {
					if err := w.Wait(b.Context(), 8<<20); err != nil {
						b.Fatal(err)
					}
				}
			}
			if err := w.Wait(b.Context(), 0); err != nil {
				b.Fatal(err)
			}
			for _, e := range all {
				_, body, _ := (&encoder{layout: s.layout, o: s.o}).Encode(nil, nil, e)
				bytes += int64(len(body))
			}
			b.ReportMetric(float64((used(b)-before).Nanoseconds())/float64(n), "cpu-ns/event")
			b.ReportMetric(float64(s.Stats().Written)/float64(n), "writes/event")
			b.ReportMetric(float64(bytes)/float64(len(all)), "item-B")
		})
	}
}
