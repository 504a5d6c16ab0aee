package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/bench/link"
)

// process is a daemon that runs meanwhile.
type process struct {
	name    string
	cmd     *exec.Cmd
	log     string // file with what it says
	ended   chan struct{}
	problem error // set when ended is closed
}

// startProcess starts a daemon whose words go to a file in dir.
func startProcess(dir string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: filepath.Base(cmd.Path), cmd: cmd, ended: make(chan struct{})}
	p.log = filepath.Join(dir, p.name+".log")
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ^C is for us to pass on
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() {
		p.problem = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// startFar starts a daemon at the far end of the link, and waits until it listens
// at addr.
func startFar(ctx context.Context, far *link.Thread, dir, addr string, cmd *exec.Cmd) (p *process, err error) {
	err = far.Do(func() (err error) {
		p, err = startProcess(dir, cmd)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := p.listens(ctx, addr); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// until waits for ok, which the daemon brings about.
func (p *process) until(ctx context.Context, what string, ok func() bool) error {
	end := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended before %s: %v\n%s", p.name, what, p.problem, p.lastWords())
		case <-end:
			return fmt.Errorf("%s: not %s after 30 s\n%s", p.name, what, p.lastWords())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// listens waits until the daemon takes connections at addr.
func (p *process) listens(ctx context.Context, addr string) error {
	return p.until(ctx, "listening", func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// lastWords is the end of what the daemon said.
func (p *process) lastWords() string {
	b, _ := os.ReadFile(p.log)
	return string(b[max(0, len(b)-1000):])
}

// stop ends the daemon, if need be the hard way.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(15 * time.Second):
	}
	p.kill() // also what it may have left
	select {
	case <-p.ended:
	case <-time.After(5 * time.Second):
	}
}

// kill ends the daemon and what it started, at once.
func (p *process) kill() { syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }

// usage is what a client process takes. Memory is in KiB.
type usage struct {
	RssAnon int64 `json:"rss_anon_kib"`
	RssFile int64 `json:"rss_file_kib"`
	// RssShmem has what is known of the inodes that the kernel holds.
	RssShmem int64   `json:"rss_shmem_kib"`
	VmHWM    int64   `json:"vm_hwm_kib"`
	CPU      float64 `json:"cpu_seconds"` // since it started
}

// add adds what another process takes. The sum of peaks is not less than the peak.
func (u *usage) add(o *usage) {
	u.RssAnon += o.RssAnon
	u.RssFile += o.RssFile
	u.RssShmem += o.RssShmem
	u.VmHWM += o.VmHWM
	u.CPU += o.CPU
}

// rss is what is resident in all, VmRSS.
func (u usage) rss() int64 { return u.RssAnon + u.RssFile + u.RssShmem }

func (p *process) usage() (*usage, error) {
	dir := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return nil, err
	}
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return nil, err
	}
	u := parseStatus(status)
	u.CPU = parseStat(stat)
	return &u, nil
}

// parseStatus reads proc_pid_status(5).
func parseStatus(b []byte) (u usage) {
	for line := range bytes.Lines(b) {
		key, value, _ := strings.Cut(string(line), ":")
		n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch key {
		case "RssAnon":
			u.RssAnon = n
		case "RssFile":
			u.RssFile = n
		case "RssShmem":
			u.RssShmem = n
		case "VmHWM":
			u.VmHWM = n
		}
	}
	return u
}

// parseStat returns the time on processors that proc_pid_stat(5) tells, in
// seconds.
func parseStat(b []byte) float64 {
	const ticks = 100                                                   // a second, on every Linux that is
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // the name may hold anything
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticks
}

// runQuietly runs a program to its end, within d. Its words are told if it fails.
func runQuietly(ctx context.Context, d time.Duration, name string, args ...string) error {
	_, err := output(ctx, d, name, args...)
	return err
}

// output is runQuietly, and returns what the program wrote to its stdout.
func output(ctx context.Context, d time.Duration, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var errors bytes.Buffer
	cmd.Stderr = &errors
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, bytes.TrimSpace(errors.Bytes()))
	}
	return out, nil
}

// isMounted tells whether a file system is mounted at dir.
func isMounted(dir string) bool {
	b, _ := os.ReadFile("/proc/self/mounts")
	return bytes.Contains(b, []byte(" "+dir+" "))
}

// unmount takes a mount away, whoever uses it.
func unmount(dir string) {
	for range 50 {
		if unix.Unmount(dir, unix.UMOUNT_NOFOLLOW) != unix.EBUSY {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if isMounted(dir) {
		unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
}
