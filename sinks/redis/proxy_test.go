package redis

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/sinks/sinktest"
)

// proxy stands before a server and lets requests fail as planned. A request is what the client sends in one go.
type proxy struct {
	to       string
	listener net.Listener
	running  sync.WaitGroup

	sinktest.Faults

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{to: to, listener: l, conns: map[net.Conn]struct{}{}}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// dial brings every connection here, whatever address a server gives itself.
func (p *proxy) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, p.listener.Addr().String())
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

const none sinktest.Fault = -1

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.conns[c] = struct{}{}
		p.mu.Unlock()
		p.running.Go(func() {
			p.serve(c)
			p.mu.Lock()
			delete(p.conns, c)
			p.mu.Unlock()
		})
	}
}

// serve passes one connection's commands on, one after the other, until one side ends or a fault ends both.
func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer server.Close()
	commands, answers := bufio.NewReaderSize(c, 1<<20), bufio.NewReader(server)
	pass := func(command []byte) ([]byte, error) {
		if _, err := server.Write(command); err != nil {
			return nil, err
		}
		return message(nil, answers)
	}
	fault, fresh := none, true
	for i := 0; ; i++ {
		command, err := message(nil, commands)
		if err != nil {
			return
		}
		if write := bytes.Contains(command, []byte("\r\nEVAL")) && !bytes.Contains(command, []byte("return 1\r\n")); !write {
			fault = none
		} else if fresh {
			i = 0
			if next, fails := p.Next(); fails {
				fault = next
			} else {
				fault = none
			}
		}
		var answer []byte
		switch {
		case fault == sinktest.Unavailable:
			return
		case fault == sinktest.Hang:
			_, _ = io.Copy(io.Discard, commands)
			return
		case fault == sinktest.Throttled:
			answer = []byte("-LOADING Redis is loading the dataset in memory\r\n")
		case fault == sinktest.Partial && i%2 == 0:
			answer = []byte("-OOM command not allowed when used memory > 'maxmemory'.\r\n")
		default:
			if answer, err = pass(command); err != nil {
				return
			}
		}
		fresh = commands.Buffered() == 0
		if fault == sinktest.LostAnswer {
			if fresh {
				return
			}
			continue
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// message appends one message of RESP 2 or 3, as it came.
func message(b []byte, r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return b, err
	}
	b = append(b, line...)
	n, _ := strconv.Atoi(strings.TrimSpace(string(line[1:])))
	switch line[0] {
	case '$', '=', '!':
		if n < 0 {
			return b, nil
		}
		text := make([]byte, n+2)
		_, err = io.ReadFull(r, text)
		return append(b, text...), err
	case '%', '|':
		n *= 2
	case '*', '~', '>':
	default:
		return b, nil
	}
	for range n {
		if b, err = message(b, r); err != nil {
			return b, err
		}
	}
	return b, nil
}
