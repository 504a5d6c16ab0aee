package link

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Config is how far away the far end is.
type Config struct {
	RoundTrip time.Duration
	Mbits     float64 // each way
	// Near and Far are the addresses of the ends; empty: NearIP and FarIP. All
	// of Subnet is beyond the near end for who looks from the far one.
	Near, Far string
}

// Addresses of the ends, and the range that these and all others should be from:
// RFC 2544 sets it aside for benchmarks.
const (
	NearIP = "198.18.0.1"
	FarIP  = "198.18.0.2"
	Subnet = "198.18.0.0/15"
)

// Link joins a network namespace with another one. Two tun devices have packets
// come out here, and this process lets them wait as long as a wire would take. So
// TCP is the kernel's own, with its handshakes, slow starts and windows.
type Link struct {
	far    *Thread // in the far namespace
	ends   [2]*os.File
	up     *wire // from near to far
	down   *wire
	joined sync.WaitGroup
}

// New makes a link from the namespace that near is in to a new one. It is the
// caller's to close.
func New(cfg Config, near *Thread) (*Link, error) {
	nearIP, farIP := cmp.Or(cfg.Near, NearIP), cmp.Or(cfg.Far, FarIP)
	far, err := NewNamespace()
	if err != nil {
		return nil, err
	}
	l := &Link{far: far}
	bytesPerSecond := cfg.Mbits * 1e6 / 8
	l.up = newWire(bytesPerSecond, cfg.RoundTrip/2)
	l.down = newWire(bytesPerSecond, cfg.RoundTrip/2)
	err = far.Do(func() (err error) {
		l.ends[1], err = openTun(farIP, nearIP, netip.MustParsePrefix(Subnet))
		return err
	})
	if err == nil {
		err = near.Do(func() (err error) {
			l.ends[0], err = openTun(nearIP, farIP, netip.PrefixFrom(netip.IPv4Unspecified(), 32))
			return err
		})
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	l.joined.Go(func() { l.up.carry(l.ends[0], l.ends[1]) })
	l.joined.Go(func() { l.down.carry(l.ends[1], l.ends[0]) })
	return l, nil
}

// Far is a thread in the namespace of the far end.
func (l *Link) Far() *Thread { return l.far }

// Close cuts the link. What uses the far end should have ended.
func (l *Link) Close() {
	for _, f := range l.ends {
		if f != nil {
			f.Close()
		}
	}
	l.joined.Wait()
	l.far.End()
}

// Traffic is what has gone over a link.
type Traffic struct {
	Up          int64 `json:"up"`   // bytes
	Down        int64 `json:"down"` // bytes
	Connections int64 `json:"connections"`
}

// Traffic counts so far. Up is from near to far, and so are connections.
func (l *Link) Traffic() Traffic {
	return Traffic{Up: l.up.bytes.Load(), Down: l.down.bytes.Load(), Connections: l.up.syns.Load()}
}

// openTun makes a device with an address in the present namespace. What is in
// beyond, a network or just the peer, is reached by it. Packets come
// with the kernel's own header before them, so that large ones need not be cut
// and checksums not be made.
func openTun(addr, peer string, beyond netip.Prefix) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	if err := setUpTun(fd, addr, peer, beyond.Bits()); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make a tun device: %w", err)
	}
	return os.NewFile(uintptr(fd), "tun"), nil // not before: the poller takes no unattached one
}

func setUpTun(fd int, addr, peer string, bits int) error {
	name := "link%d" // the kernel puts a number there
	req := func() *unix.Ifreq {
		r, _ := unix.NewIfreq(name) // fails for long names only
		return r
	}
	r := req()
	r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		return err
	}
	name = r.Name()
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4); err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	for _, a := range []struct {
		request uint
		ip      string
	}{
		{unix.SIOCSIFADDR, addr},
		{unix.SIOCSIFDSTADDR, peer},
		{unix.SIOCSIFNETMASK, net.IP(net.CIDRMask(bits, 32)).String()},
	} {
		r := req()
		if err := r.SetInet4Addr(netip.MustParseAddr(a.ip).AsSlice()); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(s, a.request, r); err != nil {
			return err
		}
	}
	r = req()
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}

// wire is one direction.
type wire struct {
	line  line
	bytes atomic.Int64
	syns  atomic.Int64
}

func newWire(bytesPerSecond float64, delay time.Duration) *wire {
	return &wire{line: line{bytesPerSecond: bytesPerSecond, delay: delay}}
}

// line reckons when packets come out of a wire.
type line struct {
	bytesPerSecond float64
	delay          time.Duration
	free           time.Duration // when the last bit of what was sent has gone in
}

// send tells when a packet of n bytes that comes at now has arrived in whole.
func (l *line) send(now time.Duration, n int) time.Duration {
	l.free = max(l.free, now) + time.Duration(float64(n)/l.bytesPerSecond*1e9)
	return l.free + l.delay
}

// packet is on its way.
type packet struct {
	due time.Duration
	buf *[maxPacket]byte
	n   int
}

// maxPacket is the largest packet with the kernel's header.
const maxPacket = vnetHeader + 1<<16

// carry moves packets until a device is closed. Nothing is lost on the way: the
// windows of TCP bound what waits.
func (w *wire) carry(from, to *os.File) {
	queue := make(chan packet, 1<<13)
	buffers := sync.Pool{New: func() any { return new([maxPacket]byte) }}
	var done sync.WaitGroup
	done.Go(func() {
		// Go's timers are good to a millisecond; this is a tenth of the way.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for p := range queue {
			if p.due > monotonic() {
				sleepUntil(nextTick(p.due))
			}
			to.Write(p.buf[:p.n]) // what fails is lost, as on any wire
			buffers.Put(p.buf)
		}
	})
	for {
		buf := buffers.Get().(*[maxPacket]byte)
		n, err := from.Read(buf[:])
		if err != nil {
			break
		}
		size, syn := measure(buf[:n])
		w.bytes.Add(int64(size))
		if syn {
			w.syns.Add(1)
		}
		queue <- packet{w.line.send(monotonic(), size), buf, n}
	}
	close(queue)
	done.Wait()
}

const (
	vnetHeader  = 10 // struct virtio_net_hdr
	frameExtras = 38 // Ethernet: preamble, header, checksum, gap
)

// measure tells how many bytes a packet would be on an Ethernet, where a large
// one goes as many, and whether it asks for a TCP connection.
func measure(b []byte) (size int, syn bool) {
	if len(b) < vnetHeader+20 {
		return len(b), false
	}
	frames, header := 1, 0
	ip := b[vnetHeader:]
	if at := int(ip[0]&15) * 4; ip[0]>>4 == 4 && ip[9] == unix.IPPROTO_TCP && len(ip) >= at+20 {
		const flagSYN, flagACK = 0x02, 0x10
		syn = ip[at+13]&(flagSYN|flagACK) == flagSYN
		header = at + int(ip[at+12]>>4)*4
	}
	if each := int(binary.NativeEndian.Uint16(b[4:])); b[1] != unix.VIRTIO_NET_HDR_GSO_NONE && each > 0 {
		frames = max((len(ip)-header+each-1)/each, 1)
	}
	return len(ip) + (frames-1)*header + frames*frameExtras, syn
}

// monotonic is the time since some point in the past.
func monotonic() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano())
}

// tick is how often packets come out at most. Waking for each would take a good
// part of a processor from what is measured.
const tick = 100 * time.Microsecond

// nextTick is the first tick that is not before t.
func nextTick(t time.Duration) time.Duration { return (t + tick - 1) / tick * tick }

func sleepUntil(t time.Duration) {
	ts := unix.NsecToTimespec(int64(t))
	for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil) == unix.EINTR {
	}
}
