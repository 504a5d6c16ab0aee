package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/bench/link"
)

// daemon is a program that runs until it is told to end.
type daemon struct {
	t         *testing.T
	dir       string // for its log, and the socket that it tells at that it is ready
	program   string
	namespace *link.Thread // where it runs; nil: here
	proc      *process     // the last one
}

// launch starts the program and does not wait for anything.
func (d *daemon) launch(env []string, args ...string) *process {
	d.t.Helper()
	cmd := exec.Command(d.program, args...)
	cmd.Env = append(os.Environ(), env...)
	return d.launchCommand(cmd)
}

// launchCommand is launch for a command that says all but where the log is.
func (d *daemon) launchCommand(cmd *exec.Cmd) *process {
	d.t.Helper()
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	d.proc = startIn(d.t, d.namespace, cmd)
	return d.proc
}

// untilReady waits until the daemon that begin starts tells that it is ready, as
// it tells a service manager.
func (d *daemon) untilReady(begin func(env string) *process) {
	d.t.Helper()
	addr := &net.UnixAddr{Name: filepath.Join(d.dir, "notify"), Net: "unixgram"}
	os.Remove(addr.Name)
	conn, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	p := begin("NOTIFY_SOCKET=" + addr.Name)
	go func() {
		<-p.ended
		conn.Close()
	}()
	buf := make([]byte, 100)
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "READY=1\n" {
		d.t.Fatalf("%s is not ready: %q, %v", p, buf[:n], err)
	}
}

// endsWell has it end as a service manager does, within limit and with success.
func (d *daemon) endsWell(limit time.Duration) {
	d.t.Helper()
	d.proc.Process.Signal(syscall.SIGTERM)
	if !d.proc.endsWithin(limit) {
		d.t.Fatalf("%s still runs %v after SIGTERM", d.program, limit)
	}
	if d.proc.err != nil {
		d.t.Errorf("%s ended with %v", d.program, d.proc.err)
	}
}

// kill ends it without any warning.
func (d *daemon) kill() {
	d.t.Helper()
	d.proc.Process.Kill()
	if !d.proc.endsWithin(10 * time.Second) {
		d.t.Fatalf("%s outlives a SIGKILL", d.program)
	}
}

func (d *daemon) ended() bool { return d.proc.endsWithin(0) }

// end is for the end of a test: nothing runs on, and one that failed has the log.
func (d *daemon) end() {
	if d.proc != nil {
		d.proc.Process.Kill()
		d.proc.endsWithin(10 * time.Second)
	}
	if d.t.Failed() {
		d.t.Logf("log of %s in %s:\n%s", filepath.Base(d.program), d.dir, lastLines(d.log(), 40))
	}
}

// log is all that it has said so far.
func (d *daemon) log() string {
	b, _ := os.ReadFile(filepath.Join(d.dir, "log"))
	return string(b)
}

func lastLines(s string, n int) string {
	lines := strings.SplitAfter(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
