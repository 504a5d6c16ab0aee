package service

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Exit codes of an init script, but for status.
const (
	exitOK            = 0
	exitFailed        = 1
	exitUsage         = 2
	exitNotConfigured = 6
	exitNotRunning    = 7
)

// Exit codes of status.
const (
	statusRunning = 0
	statusDead    = 1 // and there is a pid file
	statusStopped = 3
)

// workerMisconfigured is what a daemon exits with when its config is wrong.
const workerMisconfigured = 2

// LineFD is the descriptor at which a worker with a keeper finds it.
const LineFD = 4

// How long things may take before harder means, or the end.
const (
	stopWait  = 40 * time.Second // after SIGTERM
	killWait  = 5 * time.Second  // after SIGKILL
	startWait = 10 * time.Minute // the daemon itself says how long it waits for what
)

// Commands are what Run knows.
var Commands = []string{"start", "stop", "restart", "reload", "upgrade", "status", "supervise"}

// IsCommand tells whether a word is one that Run knows.
func IsCommand(word string) bool { return slices.Contains(Commands, word) }

// Service is a daemon as an init script sees it.
type Service struct {
	Name    string
	Config  string // path of its config
	Problem error  // why the config can't be used; nil: it can
	PidFile string
	Log     string // file that the daemon's standard error is appended to

	// Clear takes away what a daemon leaves that had to be killed, and nothing of one
	// that lives; may be nil.
	Clear func() error

	// Worker is the word that makes the program a worker with a keeper (package
	// keeper) at descriptor LineFD; empty: what it serves ends with it.
	Worker  string
	Version string // of this program

	Program        string // path of the daemon's binary; empty: this one
	Stdout, Stderr io.Writer
}

// PidFile is the pid file of a daemon: it lies beside the control socket.
func PidFile(control string) string { return strings.TrimSuffix(control, ".sock") + ".pid" }

// Run does what a command says and returns the exit code for it.
func (s *Service) Run(command string) int {
	if s.Problem != nil && command != "stop" && command != "status" {
		fmt.Fprintln(s.Stderr, s.Problem)
		if command == "supervise" {
			return workerMisconfigured
		}
		return exitNotConfigured
	}
	// The daemon works in another directory.
	path, err := filepath.Abs(s.Config)
	if err != nil {
		fmt.Fprintf(s.Stderr, "%s: find the config: %v\n", s.Name, err)
		return exitFailed
	}
	s.Config = path
	code := exitFailed
	switch command {
	case "start":
		code, err = s.start()
	case "stop":
		code, err = s.stop()
	case "restart":
		if code, err = s.stop(); err == nil {
			code, err = s.start()
		}
	case "reload":
		code, err = s.reload()
	case "upgrade":
		code, err = s.upgrade()
	case "status":
		code, err = s.status()
	case "supervise":
		code, err = s.supervise()
	default:
		code, err = exitUsage, fmt.Errorf("%q is not a command; there are %q", command, Commands)
	}
	if err != nil {
		if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
			err = fmt.Errorf("%w: run this as root", err)
		}
		fmt.Fprintf(s.Stderr, "%s: %v\n", s.Name, err)
	}
	return code
}

func (s *Service) say(format string, args ...any) {
	fmt.Fprintf(s.Stdout, s.Name+" "+format+"\n", args...)
}

func (s *Service) status() (int, error) {
	pid, err := runningPid(s.PidFile)
	switch {
	case err != nil:
		return exitFailed, err
	case pid != 0:
		s.say("is running (pid %d)", pid)
		return statusRunning, nil
	}
	if _, err := os.Stat(s.PidFile); err == nil {
		s.say("is dead, and left its pid file %s", s.PidFile)
		return statusDead, nil
	}
	s.say("is not running")
	return statusStopped, nil
}

func (s *Service) reload() (int, error) {
	pid, err := runningPid(s.PidFile)
	switch {
	case err != nil:
		return exitFailed, err
	case pid == 0:
		return exitNotRunning, errors.New("is not running")
	}
	if s.Worker != "" {
		return s.ask("reload")
	}
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		return exitFailed, fmt.Errorf("tell process %d to reload: %w", pid, err)
	}
	return exitOK, nil
}

// stop ends the daemon, by force if it must be.
func (s *Service) stop() (int, error) {
	pid, err := runningPid(s.PidFile)
	switch {
	case err != nil:
		return exitFailed, err
	case pid == 0:
		// Nobody may start one while what the last one left is taken away.
		mine, err := takePidFile(s.PidFile)
		if errors.Is(err, errTaken) {
			return s.stop()
		}
		if err != nil {
			return exitFailed, err
		}
		defer mine.release()
		if err := s.clear(); err != nil {
			return exitFailed, err
		}
		return exitOK, nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return exitFailed, fmt.Errorf("stop process %d: %w", pid, err)
	}
	if s.gone(stopWait) {
		return exitOK, nil
	}
	// The supervisor leads the process group that the worker is in.
	fmt.Fprintf(s.Stderr, "%s: does not end within %v; killing it\n", s.Name, stopWait)
	syscall.Kill(-pid, syscall.SIGKILL)
	syscall.Kill(pid, syscall.SIGKILL)
	if !s.gone(killWait) {
		return exitFailed, fmt.Errorf("process %d outlives SIGKILL: it hangs in the kernel", pid)
	}
	os.Remove(s.PidFile)
	if err := s.clear(); err != nil {
		return exitFailed, err
	}
	return exitOK, nil
}

func (s *Service) clear() error {
	if s.Clear == nil {
		return nil
	}
	return s.Clear()
}

// gone waits until nobody holds the pid file.
func (s *Service) gone(within time.Duration) bool {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if pid, err := runningPid(s.PidFile); err == nil && pid == 0 {
			return true
		}
	}
	return false
}
