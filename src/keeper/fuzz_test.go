package keeper

import (
	"encoding/json"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzReceive lets the other side send anything, with any number of descriptors:
// what is no message is an error, and closes what came with it.
func FuzzReceive(f *testing.F) {
	f.Add([]byte(`{"op":"keep","path":"/mnt","state":{"a":1}}`), 2)
	f.Add([]byte(`{"op":"mount","path":"/mnt"}`), 1)
	f.Add([]byte(`{"op":"state","path":"/mnt","state":null}`), 0)
	f.Add([]byte(`{"op":"ping","news":{"pid":1,"last_at":"yesterday"}}`), 3)
	f.Add([]byte(`{"op":"\u0000"}{}`), 0)
	f.Add([]byte{}, 2)
	zero, err := unix.Open("/dev/zero", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { unix.Close(zero) })
	f.Fuzz(func(t *testing.T, text []byte, count int) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[1])
		lowest := lowestFree(t)
		var rights []byte
		if count = min(max(count, 0), 5); count > 0 {
			all := make([]int, count)
			for i := range all {
				all[i] = zero
			}
			rights = unix.UnixRights(all...)
		}
		if len(text) > maxMessage+1 {
			text = text[:maxMessage+1]
		}
		if err := unix.Sendmsg(pair[0], text, rights, nil, 0); err != nil {
			t.Fatal(err)
		}
		unix.Close(pair[0])
		m, fds, err := newReceiver(pair[1]).next()
		if err == nil {
			if (m.Op == opKeep || m.Op == opMount) && len(fds) != 2 || len(fds) != count {
				t.Fatalf("%q with %d of %d descriptors", text, len(fds), count)
			}
			if m.State != nil && !json.Valid(m.State) {
				t.Fatalf("%q has the state %q", text, m.State)
			}
		}
		closeAll(fds)
		if now := lowestFree(t); now > max(lowest, pair[0]) {
			t.Fatalf("%q with %d descriptors left some open: %v", text, count, err)
		}
	})
}

// lowestFree is the lowest descriptor that is not open.
func lowestFree(t *testing.T) int {
	t.Helper()
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	return fd
}
