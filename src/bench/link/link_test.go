package link

import (
	"io"
	"net"
	"testing"
	"time"
)

func TestLine(t *testing.T) {
	l := &line{bytesPerSecond: 125e6, delay: 5 * time.Millisecond}
	const ms = time.Millisecond
	for _, c := range []struct {
		at   time.Duration
		n    int
		want time.Duration
	}{
		{0, 125_000, 6 * ms},      // a millisecond to go in, five on the way
		{0, 125_000, 7 * ms},      // behind the first
		{1 * ms, 250_000, 9 * ms}, // still behind them
		{100 * ms, 0, 105 * ms},   // an idle line has only its delay
		{100 * ms, 12_500, 105100 * time.Microsecond},
	} {
		if got := l.send(c.at, c.n); got != c.want {
			t.Errorf("%d bytes sent at %v: arrived at %v, want %v", c.n, c.at, got, c.want)
		}
	}
}

// joined is a link between two namespaces of their own, with a listener at the
// far end.
func joined(t *testing.T, cfg Config) (dial func() net.Conn, l *Link, far net.Listener) {
	t.Helper()
	near, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(near.End)
	l, err = New(cfg, near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	err = l.far.Do(func() (err error) {
		far, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(FarIP), Port: 80})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	dial = func() (c net.Conn) {
		t.Helper()
		err := near.Do(func() (err error) {
			c, err = net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.ParseIP(FarIP), Port: 80})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(time.Minute))
		return c
	}
	return dial, l, far
}

// A busy machine can make the link slower than it should be, never faster. Only
// what it is at best says how good it is.
func TestLinkRoundTrip(t *testing.T) {
	const roundTrip = 20 * time.Millisecond
	dial, l, far := joined(t, Config{RoundTrip: roundTrip, Mbits: 1000})
	go func() {
		c, err := far.Accept()
		if err == nil {
			io.Copy(c, c)
		}
	}()
	began := time.Now()
	c := dial()
	if took := time.Since(began); took < roundTrip {
		t.Errorf("a handshake took %v", took)
	}
	best := time.Hour
	for range 20 {
		began := time.Now()
		if _, err := c.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(began))
	}
	if best < roundTrip || best > 2*roundTrip {
		t.Errorf("the best round trip of 20 is %v, want %v", best, roundTrip)
	}
	if n := l.Traffic(); n.Connections != 1 || n.Up < 20 || n.Down < 20 {
		t.Errorf("counted %+v", n)
	}
}

func TestLinkRate(t *testing.T) {
	const mbits, size = 200, 5_000_000
	dial, l, far := joined(t, Config{RoundTrip: time.Millisecond, Mbits: mbits})
	go func() {
		c, err := far.Accept()
		if err == nil {
			c.Write(make([]byte, size))
			c.Close()
		}
	}()
	c := dial()
	began := time.Now()
	n, err := io.Copy(io.Discard, c)
	took := time.Since(began)
	if n != size || err != nil {
		t.Fatalf("got %d bytes, %v", n, err)
	}
	if least := time.Duration(size * 8 * 1000 / mbits); took < least {
		t.Errorf("%d bytes took %v, less than the %v that the line needs", size, took, least)
	}
	// 1460 of 1538 bytes of a full frame are payload.
	if down := float64(l.Traffic().Down); down < size*1.04 || down > size*1.2 {
		t.Errorf("counted %.0f bytes on the wire for %d", down, size)
	}
}

// What the kernel joined is counted as what the wire would carry.
func TestMeasure(t *testing.T) {
	const header = 20 + 32 // IP, TCP with time stamps
	packet := func(gso byte, each, payload int, flags byte) []byte {
		b := make([]byte, vnetHeader+header+payload)
		b[1] = gso
		b[4], b[5] = byte(each), byte(each>>8)
		b[vnetHeader], b[vnetHeader+9] = 4<<4|5, 6
		b[vnetHeader+20+12], b[vnetHeader+20+13] = 32/4<<4, flags
		return b
	}
	for _, c := range []struct {
		b    []byte
		size int
		syn  bool
	}{
		{packet(0, 0, 0, 2), header + 38, true},
		{packet(0, 0, 0, 2|16), header + 38, false},
		{packet(1, 1448, 2896, 16), 2896 + 2*header + 2*38, false},
		{packet(1, 1448, 2897, 16), 2897 + 3*header + 3*38, false},
		{make([]byte, 12), 12, false},
	} {
		if size, syn := measure(c.b); size != c.size || syn != c.syn {
			t.Errorf("packet of %d bytes: got %d, %v, want %d, %v", len(c.b), size, syn, c.size, c.syn)
		}
	}
}
