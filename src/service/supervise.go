package service

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// longLife is how long a worker must live to be started again at once.
	longLife   = 10 * time.Second
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
	// workerStop is how long a worker may take to stop; less than stopWait.
	workerStop = 30 * time.Second
)

// supervise keeps a worker running until it is told to stop. A first worker
// that ends before it is ready is not started again: whoever started it sees
// why.
func (s *Service) supervise() (int, error) {
	pid, err := takePidFile(s.PidFile)
	if err != nil {
		return exitFailed, err
	}
	defer pid.release()
	notified, err := listenNotify(s.PidFile + ".notify")
	if err != nil {
		return exitFailed, err
	}
	defer notified.Close()
	ready := notified.states("READY=1")
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)

	// The worker is to stop when the thread that started it ends: that must be
	// this process' end.
	runtime.LockOSThread()
	wasReady := false
	for pause := firstPause; ; {
		began := time.Now()
		w, err := s.startWorker(notified.path, pid)
		if err != nil {
			return exitFailed, err
		}
		for running := true; running; {
			select {
			case <-ready:
				if !wasReady {
					s.passOn("READY=1")
				}
				wasReady = true
			case sig := <-signals:
				if sig == syscall.SIGHUP {
					w.signal(sig)
					continue
				}
				// One that had to be killed leaves its mounts.
				return w.stop(), s.clear()
			case <-w.ended:
				running = false
			}
		}
		switch {
		case w.code() == 0:
			return exitOK, nil // somebody stopped the worker itself
		case !wasReady:
			return w.code(), fmt.Errorf("the worker ended before it was ready (%s)", w.fate())
		}
		if time.Since(began) > longLife {
			pause = firstPause
		}
		fmt.Fprintf(s.Stderr, "%s: the worker died (%s); starting it again in %v\n", s.Name, w.fate(), pause)
		for again := time.After(pause); again != nil; {
			select {
			case <-again:
				again = nil
			case sig := <-signals:
				if sig != syscall.SIGHUP {
					return exitOK, s.clear()
				}
			}
		}
		pause = min(4*pause, lastPause)
	}
}

// passOn tells whoever waits for this process what the worker said.
func (s *Service) passOn(state string) {
	path := os.Getenv(notifyEnv)
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state + "\n"))
		conn.Close()
	}
	if err != nil {
		fmt.Fprintf(s.Stderr, "%s: can't pass on that the worker is ready: %v\n", s.Name, err)
	}
}

// worker is the daemon's process.
type worker struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended
	err   error         // then
}

// startWorker also gives the worker a share of the pid file's lock: where this
// process is killed, the lock lasts until the worker, which then stops, has ended.
func (s *Service) startWorker(notify string, pid *pidFile) (*worker, error) {
	cmd, err := s.command()
	if err != nil {
		return nil, err
	}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, notifyEnv+"=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, notifyEnv+"="+notify)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{pid.f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	w := &worker{cmd: cmd, ended: make(chan struct{})}
	go func() {
		w.err = cmd.Wait()
		close(w.ended)
	}()
	return w, nil
}

func (w *worker) signal(sig os.Signal) { w.cmd.Process.Signal(sig) }

// stop ends the worker and returns the exit code for that.
func (w *worker) stop() int {
	w.signal(syscall.SIGTERM)
	select {
	case <-w.ended:
	case <-time.After(workerStop):
		w.signal(syscall.SIGKILL)
		<-w.ended
	}
	return w.code()
}

// code is the worker's exit code; 1 if a signal ended it.
func (w *worker) code() int {
	var exit *exec.ExitError
	switch {
	case w.err == nil:
		return 0
	case errors.As(w.err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	return 1
}

func (w *worker) fate() string { return w.cmd.ProcessState.String() }
