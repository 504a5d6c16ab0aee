package service

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// start runs the supervisor in the background and returns when the daemon is
// ready, or has said why it can't be.
func (s *Service) start() (int, error) {
	pid, err := runningPid(s.PidFile)
	switch {
	case err != nil:
		return exitFailed, err
	case pid != 0:
		s.say("is running already (pid %d)", pid)
		return exitOK, nil
	}
	if err := os.MkdirAll(filepath.Dir(s.PidFile), 0o755); err != nil {
		return exitFailed, fmt.Errorf("make the pid file's directory: %w", err)
	}
	ready, err := listenNotify(s.PidFile + ".start." + strconv.Itoa(os.Getpid()))
	if err != nil {
		return exitFailed, err
	}
	defer ready.Close()
	if err := os.MkdirAll(filepath.Dir(s.Log), 0o755); err != nil {
		return exitFailed, fmt.Errorf("make the log's directory: %w", err)
	}
	log, err := os.OpenFile(s.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return exitFailed, fmt.Errorf("open the log: %w", err)
	}
	defer log.Close()
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return exitFailed, fmt.Errorf("look at the log: %w", err)
	}
	cmd, err := s.command("supervise")
	if err != nil {
		return exitFailed, err
	}
	cmd.Dir = "/" // no file system is kept busy
	cmd.Env = append(os.Environ(), notifyEnv+"="+ready.path)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return exitFailed, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ready.states("READY=1"):
		return exitOK, nil
	case err := <-ended:
		if winner, _ := runningPid(s.PidFile); winner != 0 && winner != cmd.Process.Pid {
			s.say("is running already (pid %d)", winner)
			return exitOK, nil
		}
		s.showLog(before)
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == workerMisconfigured {
			return exitNotConfigured, errors.New("did not start: its config is wrong")
		}
		return exitFailed, fmt.Errorf("did not start (%v); its log is %s", err, s.Log)
	case <-time.After(startWait):
		return exitFailed, fmt.Errorf("is not ready after %v; it goes on in the background, and its log is %s", startWait, s.Log)
	}
}

// command runs the daemon's program with its config.
func (s *Service) command(words ...string) (*exec.Cmd, error) {
	program, err := s.program()
	if err != nil {
		return nil, err
	}
	return exec.Command(program, append([]string{"-config", s.Config}, words...)...), nil
}

// program is the path of the daemon's program.
func (s *Service) program() (string, error) {
	if s.Program != "" {
		return s.Program, nil
	}
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	return path, nil
}

// maxShown is how much of a log a terminal gets.
const maxShown = 4 << 10

// showLog repeats the end of what the log has gained since it had a size.
func (s *Service) showLog(since int64) {
	f, err := os.Open(s.Log)
	if err != nil {
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return
	}
	from := max(since, st.Size()-maxShown)
	b, _ := io.ReadAll(io.NewSectionReader(f, from, st.Size()-from))
	if from > since {
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	s.Stderr.Write(b)
}

// notifyEnv is how a daemon is told whom to notify: sd_notify(3).
const notifyEnv = "NOTIFY_SOCKET"

// notifySocket gets what a daemon tells its service manager.
type notifySocket struct {
	*net.UnixConn
	path string
}

func listenNotify(path string) (*notifySocket, error) {
	os.Remove(path)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen for the daemon's word that it is ready: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		conn.Close()
		return nil, fmt.Errorf("listen for the daemon's word that it is ready: %w", err)
	}
	return &notifySocket{conn, path}, nil
}

// Close ends what states began, too.
func (n *notifySocket) Close() error {
	err := n.UnixConn.Close()
	os.Remove(n.path)
	return err
}

// states gets a value whenever the daemon says want.
func (n *notifySocket) states(want string) <-chan struct{} {
	said := make(chan struct{}, 1)
	go func() {
		b := make([]byte, 4096)
		for {
			k, err := n.Read(b)
			if err != nil {
				return
			}
			for line := range bytes.Lines(b[:k]) {
				if string(bytes.TrimSpace(line)) == want {
					select {
					case said <- struct{}{}:
					default:
					}
				}
			}
		}
	}()
	return said
}
