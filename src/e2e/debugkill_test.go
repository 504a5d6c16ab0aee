package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/redistest"
)

// steps are the system calls by which a process tells others something, or its disk.
var steps = map[uint64]bool{unix.SYS_WRITE: true, unix.SYS_WRITEV: true, unix.SYS_FSYNC: true, unix.SYS_FDATASYNC: true}

// killer kills a process when it is about to make the n-th call of steps, whichever
// of its threads does. It has to be there before a file is opened that it is about:
// what is started later has it open for a moment, too, and closes it.
type killer struct {
	pid int
	cmd *exec.Cmd
	in  io.Writer
	out io.Reader
}

func newKiller(t *testing.T, pid, n int) *killer {
	t.Helper()
	k := &killer{pid: pid, cmd: child(t, "kill at a step", strconv.Itoa(pid), strconv.Itoa(n))}
	k.cmd.Stderr = os.Stderr
	var err, err2 error
	k.in, err = k.cmd.StdinPipe()
	k.out, err2 = k.cmd.StdoutPipe()
	if err := errors.Join(err, err2, k.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	return k
}

// count has the calls counted from now on.
func (k *killer) count(t *testing.T) {
	t.Helper()
	io.WriteString(k.in, "!")
	if _, err := io.ReadFull(k.out, make([]byte, 1)); err != nil {
		t.Fatalf("the tracer can't attach: %v", k.cmd.Wait())
	}
}

// leave ends that, and tells whether the process was killed.
func (k *killer) leave() bool {
	k.cmd.Process.Kill() // which lets the other one go on
	rest, _ := io.ReadAll(k.out)
	k.cmd.Wait()
	if len(rest) > 0 {
		unix.Kill(k.pid, unix.SIGKILL) // if that did not come to it
	}
	return len(rest) > 0
}

// traceAndKill is a killer's process, by ptrace(2). It says a byte once it follows all
// threads, and another one when it kills.
func traceAndKill(args []string) int {
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		return 1
	}
	runtime.LockOSThread()
	pid, _ := strconv.Atoi(args[0])
	n, _ := strconv.Atoi(args[1])
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
	left := make(map[int]bool) // threads that were not stopped yet
	for more := true; more; {
		more = false
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			fmt.Fprintln(os.Stderr, "tracer:", err)
			return 1
		}
		for _, e := range threads {
			tid, _ := strconv.Atoi(e.Name())
			if _, known := left[tid]; known {
				continue
			}
			// EPERM: it is traced already, as what a traced one started.
			if _, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, options, 0, 0); e == unix.EPERM || e == unix.ESRCH {
				continue
			} else if e != 0 {
				fmt.Fprintln(os.Stderr, "tracer:", e)
				return 1
			}
			left[tid], more = true, true
			unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_INTERRUPT, uintptr(tid), 0, 0, 0, 0)
		}
	}
	for said := false; ; {
		if !said && len(left) == 0 {
			said = true
			os.Stdout.WriteString("!")
		}
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0 // none is left
		}
		delete(left, tid)
		if !status.Stopped() {
			continue
		}
		signal := int(status.StopSignal())
		switch {
		case signal == int(unix.SIGTRAP)|0x80:
			var info struct { // ptrace_syscall_info
				op   uint8
				_    [3]uint8
				arch uint32
				at   [2]uint64
				nr   uint64
				_    [12]uint64
			}
			unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
			if info.op == unix.PTRACE_SYSCALL_INFO_ENTRY && steps[info.nr] {
				if n--; n == 0 {
					os.Stdout.WriteString("!")
					unix.Kill(pid, unix.SIGKILL)
				}
			}
			signal = 0
		case status>>16 != 0: // an event, not a signal
			signal = 0
		}
		unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SYSCALL, uintptr(tid), 0, uintptr(signal), 0, 0)
	}
}

// TestDebugKilledAtEachStep ends the client, and then redis, at each step of a close
// that others could see anything of: at each call by which the client says something to
// redis or the kernel, or redis something to its disk or the client. What redis
// has is the version before or that one.
func TestDebugKilledAtEachStep(t *testing.T) {
	const size = 100_000
	c, mnt, r := debugClient(t, appStore(t), redistest.AppendOnly...)
	name := filepath.Join(mnt, "etc/app.conf")
	version := func(v int) string { return string(bytes.Repeat(fmt.Appendf(nil, "%09d\n", v), size/10)) }
	c.start()
	v := 1
	mustWrite(t, name, []byte(version(v)), 0o644)
	for _, victim := range []struct {
		name  string
		pid   func() int
		again func() // once it was killed
	}{
		{"client", func() int { return c.proc.Process.Pid }, func() {
			if !c.proc.endsWithin(30 * time.Second) {
				t.Fatal("the client outlives a SIGKILL")
			}
			c.start()
		}},
		{"redis", r.PID, func() {
			r.Kill()
			r.Restart()
		}},
	} {
		step, acknowledged := 0, false
		for ; !acknowledged; step++ {
			if step > 50 {
				t.Fatalf("no close of 50 outlived its %s", victim.name)
			}
			before, after := version(v), version(v+1)
			k := newKiller(t, victim.pid(), step+1)
			f, err := os.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
			if err == nil {
				_, err = f.WriteString(after)
			}
			if err != nil {
				t.Fatal(err)
			}
			k.count(t)
			within(t, time.Minute, "close", func() { acknowledged = f.Close() == nil })
			// It may have been killed right behind the close.
			if k.leave() {
				victim.again()
			}
			switch got := sent(t, r, "etc/app.conf"); {
			case got == after:
				v++
			case got != before:
				t.Fatalf("%s killed at step %d: redis has %d bytes that begin with %.10q", victim.name, step, len(got), got)
			case acknowledged:
				t.Fatalf("%s killed at step %d: what was acknowledged is not there", victim.name, step)
			}
			comesToHave(t, time.Minute, "the mount shows what redis has", name, []byte(version(v)))
			eventually(t, time.Minute, "the client reaches redis", func() bool {
				d := c.status().Mounts[0].Debug
				return d != nil && d.Error == ""
			})
		}
		if step < 4 {
			t.Errorf("%s: a close has no more than %d steps", victim.name, step)
		}
		t.Logf("%s: %d steps", victim.name, step)
	}
	c.stop()
}
