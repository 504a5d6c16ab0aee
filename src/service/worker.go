package service

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aysfs/aysfs/src/keeper"
)

// program is a binary that stays the same when another one takes its place on
// the disk.
type program struct {
	path string
	file *os.File
}

func openProgram(path string) (*program, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the program: %w", err)
	}
	return &program{path, f}, nil
}

// there tells whether it is what its path has now.
func (p *program) there() bool {
	mine, err := p.file.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(p.path)
	return err == nil && os.SameFile(mine, now)
}

// name is a path at which it is now. The file itself may have none any more.
func (p *program) name() string {
	if p.there() {
		return p.path
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.file.Fd())
}

func (p *program) close() {
	if p != nil {
		p.file.Close()
	}
}

// worker is the daemon's process.
type worker struct {
	cmd   *exec.Cmd
	began time.Time
	up    time.Time    // when it began to serve; zero: not yet
	line  *keeper.Line // nil: without a keeper

	pinged     time.Time
	unanswered int // pings

	ended chan struct{} // closed when it has ended
	err   error         // then
}

// said is what it says of itself, closed at its end; nil without a keeper.
func (w *worker) said() <-chan keeper.Word {
	if w.line == nil {
		return nil
	}
	return w.line.Said()
}

// start runs p as a worker. It also gives it a share of the pid file's lock: where
// this process is killed, the lock lasts until the worker, which then stops, has
// ended.
func (v *supervisor) start(p *program) (*worker, error) {
	cmd := exec.Command(p.name(), "-config", v.s.Config)
	cmd.Args[0] = p.path
	cmd.Dir = "/" // no file system is kept busy
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, notifyEnv+"=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, notifyEnv+"="+v.notify.path)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{v.pid.f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	w := &worker{cmd: cmd, began: time.Now(), ended: make(chan struct{})}
	if v.keeper != nil {
		line, theirs, err := v.keeper.NewLine()
		if err != nil {
			return nil, err
		}
		defer theirs.Close()
		cmd.Args = append(cmd.Args, v.s.Worker)
		cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
		w.line = line
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.path, err)
	}
	sacrifice(cmd.Process.Pid)
	go func() {
		w.err = cmd.Wait()
		close(w.ended)
	}()
	return w, nil
}

// sacrifice has the kernel, when memory is short, kill a worker rather than this
// process: where nothing keeps the mounts they end.
func sacrifice(pid int) {
	const more = 50 // thousandths of the memory that there is
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(own))); err == nil {
		// Where that can't be set, the worker takes most all the same, mostly.
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(min(n+more, 1000))), 0)
	}
}

func (w *worker) signal(sig os.Signal) { w.cmd.Process.Signal(sig) }

// stop ends the worker and returns the exit code for that. That it dies otherwise,
// just then, is no failure: what it leaves is taken away.
func (w *worker) stop() int {
	w.signal(syscall.SIGTERM)
	select {
	case <-w.ended:
	case <-time.After(workerStop):
		w.signal(syscall.SIGKILL)
		<-w.ended
		return w.code()
	}
	if st, ok := w.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		return 0
	}
	return w.code()
}

// lastWords is how long the descriptors of a process may outlive it.
const lastWords = time.Second

// kill ends it now, and returns when nothing more comes from it.
func (w *worker) kill() {
	w.signal(syscall.SIGKILL)
	select {
	case <-w.ended:
	case <-time.After(killWait): // it hangs in the kernel
	}
	w.drain()
}

// drain has the keeper deal with all that a worker said before it ended.
func (w *worker) drain() {
	said := w.said()
	if said == nil {
		return
	}
	late := time.After(lastWords)
	for {
		select {
		case _, ok := <-said:
			if !ok {
				return
			}
		case <-late:
			return
		}
	}
}

// settled tells whether it has been of use for a while.
func (w *worker) settled() bool { return !w.up.IsZero() && time.Since(w.up) >= longLife }

// code is the worker's exit code; 1 if a signal ended it.
func (w *worker) code() int {
	if w.hangs() {
		return 1
	}
	var exit *exec.ExitError
	switch {
	case w.err == nil:
		return 0
	case errors.As(w.err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	return 1
}

func (w *worker) fate() string {
	if w.hangs() {
		return "it hangs in the kernel"
	}
	return w.cmd.ProcessState.String()
}

// hangs tells whether it is still there.
func (w *worker) hangs() bool {
	select {
	case <-w.ended:
		return false
	default:
		return true
	}
}
