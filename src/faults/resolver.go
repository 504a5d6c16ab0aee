package faults

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
)

// Resolver is a name server. It answers for every name with 127.0.0.1, until it is
// told to do worse.
type Resolver struct {
	conn net.PacketConn
	mode atomic.Int32
	all  sync.WaitGroup
	asks atomic.Int64
}

// What a Resolver does.
const (
	Resolves = iota
	SaysNothing
	NoSuchName
	ServerFails
)

// NewResolver starts one at a UDP address.
func NewResolver(addr string) (*Resolver, error) {
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	r := &Resolver{conn: conn}
	r.all.Go(r.serve)
	return r, nil
}

// Set has it do so from now on.
func (r *Resolver) Set(mode int) { r.mode.Store(int32(mode)) }

// Asked is how many questions there were.
func (r *Resolver) Asked() int64 { return r.asks.Load() }

// Close ends it.
func (r *Resolver) Close() {
	r.conn.Close()
	r.all.Wait()
}

func (r *Resolver) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := r.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		r.asks.Add(1)
		if a := reply(buf[:n], int(r.mode.Load())); a != nil {
			_, _ = r.conn.WriteTo(a, from)
		}
	}
}

// reply is the answer to a question of one name (RFC 1035, 4.1).
func reply(q []byte, mode int) []byte {
	const header = 12
	if len(q) < header || mode == SaysNothing {
		return nil
	}
	end := header
	for end < len(q) && q[end] != 0 {
		end += 1 + int(q[end])
	}
	if end += 5; end > len(q) { // with the root, type and class
		return nil
	}
	a := append([]byte(nil), q[:end]...)
	a[2], a[3] = 0x81, 0x80 // an answer; recursion was wanted, and is there
	a[4], a[5] = 0, 1
	clear(a[6:header])
	isA := a[end-4] == 0 && a[end-3] == 1
	switch {
	case mode == NoSuchName:
		a[3] |= 3
	case mode == ServerFails:
		a[3] |= 2
	case isA:
		a[7] = 1
		a = append(a, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1)
	}
	return a
}
