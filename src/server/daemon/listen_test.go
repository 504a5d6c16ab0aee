package daemon

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What is joined waits for what comes next, and all of it arrives in order.
func TestJoin(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	l := &limited{Listener: inner, most: 1, log: slog.New(slog.DiscardHandler)}
	near, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := conn.(*counted)
	send := func(b []byte) {
		t.Helper()
		if n, err := c.Write(b); n != len(b) || err != nil {
			t.Fatalf("%d of %d bytes written, %v", n, len(b), err)
		}
	}
	for i := range 3 { // over one connection, which uses its memory again
		head, rest := bytes.Repeat([]byte{byte('a' + i)}, maxJoin), bytes.Repeat([]byte{byte('A' + i)}, 100_000)
		c.Join()
		send(head)
		clear(head) // the caller's again
		near.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if n, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%d bytes came before what they were to come with, %v", n, err)
		}
		near.SetReadDeadline(time.Now().Add(10 * time.Second))
		written := make(chan struct{})
		go func() {
			defer close(written)
			c.Write(rest)
		}()
		got := make([]byte, maxJoin+len(rest))
		if _, err := io.ReadFull(near, got); err != nil {
			t.Fatal(err)
		}
		if want := append(bytes.Repeat([]byte{byte('a' + i)}, maxJoin), rest...); !bytes.Equal(got, want) {
			t.Fatalf("round %d: other bytes came", i)
		}
		<-written
	}
	for _, n := range []int{1, maxJoin + 1} { // not asked to wait, or too much for it
		if n > maxJoin {
			c.Join()
		}
		send(make([]byte, n))
		if _, err := io.ReadFull(near, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
}

// Some descriptors are left for other things than connections.
func TestConnectionsFitTheDescriptors(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, nil))
	if n := connections(10, log); n != 10 || b.Len() > 0 {
		t.Errorf("%d of 10 connections: %s", n, b.String())
	}
	if n := connections(1<<30, log); n < 1 || uint64(n) > limit.Cur*3/4 || !strings.Contains(b.String(), "LimitNOFILE") {
		t.Errorf("%d connections with %d descriptors: %s", n, limit.Cur, b.String())
	}
}
