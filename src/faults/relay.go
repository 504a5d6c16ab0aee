package faults

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// Relay carries connections to a server, and has a share of what comes back go
// wrong, whatever protocol it is of: see Bytes. The share is of the pieces in which
// bytes arrive.
type Relay struct {
	*chance
	listener net.Listener
	target   string
	ctx      context.Context // done once closed
	close    context.CancelFunc
	all      sync.WaitGroup
}

// NewRelay starts one, to host and port of target.
func NewRelay(target string, seed uint64) (*Relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	r := &Relay{chance: newChance(seed), listener: l, target: target}
	r.ctx, r.close = context.WithCancel(context.Background())
	r.all.Go(r.accept)
	return r, nil
}

// Addr is the host and port where it listens.
func (r *Relay) Addr() string { return r.listener.Addr().String() }

// Close ends it with all its connections.
func (r *Relay) Close() {
	r.close()
	r.listener.Close()
	r.all.Wait()
}

func (r *Relay) accept() {
	for {
		in, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.all.Go(func() { r.carry(in.(*net.TCPConn)) })
	}
}

func (r *Relay) carry(in *net.TCPConn) {
	defer in.Close()
	out, err := net.Dial("tcp", r.target)
	if err != nil {
		_ = in.SetLinger(0)
		return
	}
	defer out.Close()
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
	r.all.Go(func() { // as it is
		defer cancel()
		buf := make([]byte, 32<<10)
		for {
			n, err := in.Read(buf)
			if _, werr := out.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	})
	buf := make([]byte, 32<<10)
	for {
		n, err := out.Read(buf)
		if n > 0 && !r.piece(ctx, in, buf[:n]) || err != nil {
			return
		}
	}
}

// piece passes on what has arrived. It is false where the connection is over.
func (r *Relay) piece(ctx context.Context, to *net.TCPConn, b []byte) bool {
	kind, chance := r.draw(func(k Kind) bool { return slices.Contains(Bytes, k) })
	at := 0
	if kind != "" && kind != Late {
		at = chance.IntN(len(b) + 1)
	}
	switch kind {
	case Stall:
		_, _ = to.Write(b[:at])
		<-ctx.Done()
		return false
	case Drip:
		return drip(ctx, to, b, at)
	case Cut, Reset:
		_, _ = to.Write(b[:at])
		if kind == Reset {
			_ = to.SetLinger(0)
		}
		return false
	case Flip:
		garble(chance, b)
	case Late:
		if !pause(ctx, time.Duration(chance.Int64N(int64(2*time.Second)))) {
			return false
		}
	}
	_, err := to.Write(b)
	return err == nil
}

// drip sends the bytes from at on one by one, a second each.
func drip(ctx context.Context, to *net.TCPConn, b []byte, at int) bool {
	if _, err := to.Write(b[:at]); err != nil {
		return false
	}
	for i := at; i < len(b); i++ {
		if !pause(ctx, time.Second) {
			return false
		}
		if _, err := to.Write(b[i : i+1]); err != nil {
			return false
		}
	}
	return true
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
