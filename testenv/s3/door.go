package s3

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
)

// door passes TCP connections on to the gateway's Unix socket. The gateway takes no listener, so this is how it gets a free
// port without a race; and when it stops it waits 10 s for connections on which no request ever came, of which Go's HTTP
// client opens some. The door closes them.
type door struct {
	listener net.Listener
	socket   string // path, to be made by the gateway
	serving  sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

func openDoor(addr string) (*door, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "s3-") // a socket's path has at most 107 bytes
	if err != nil {
		l.Close()
		return nil, err
	}
	d := &door{listener: l, socket: filepath.Join(dir, "socket"), conns: map[net.Conn]bool{}}
	d.serving.Go(d.serve)
	return d, nil
}

func (d *door) serve() {
	for {
		client, err := d.listener.Accept()
		if err != nil {
			return
		}
		d.serving.Go(func() { d.pass(client) })
	}
}

// pass copies both ways until either side is done.
func (d *door) pass(client net.Conn) {
	defer client.Close()
	gateway, err := net.Dial("unix", d.socket)
	if err != nil {
		return
	}
	defer gateway.Close()
	if !d.keep(client) {
		return
	}
	defer d.forget(client)
	var wg sync.WaitGroup
	wg.Go(func() {
		io.Copy(gateway, client)
		gateway.Close()
	})
	io.Copy(client, gateway)
	client.Close()
	wg.Wait()
}

func (d *door) keep(c net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.conns[c] = true
	}
	return !d.closed
}

func (d *door) forget(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, c)
}

// close ends all connections.
func (d *door) close() error {
	err := d.listener.Close()
	d.mu.Lock()
	d.closed = true
	for c := range d.conns {
		c.Close()
	}
	d.mu.Unlock()
	d.serving.Wait()
	return errors.Join(err, os.RemoveAll(filepath.Dir(d.socket)))
}
