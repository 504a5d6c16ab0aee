package service

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain makes a daemon of the test binary where it is run as one: its config
// is a directory, with files that say how it behaves.
func TestMain(m *testing.M) {
	if len(os.Args) < 3 || os.Args[1] != "-config" {
		os.Exit(m.Run())
	}
	dir := os.Args[2]
	if len(os.Args) == 4 {
		s := testService(dir, os.Stdout, os.Stderr)
		os.Exit(s.Run(os.Args[3]))
	}
	os.Exit(work(dir))
}

func testService(dir string, out, err *os.File) *Service {
	return &Service{
		Name: "testd", Config: dir, PidFile: filepath.Join(dir, "testd.pid"), Log: filepath.Join(dir, "log", "testd.log"),
		Stdout: out, Stderr: err,
	}
}

// work is the worker: it leaves its pid in dir/workers, and a line in dir/hups
// for every SIGHUP.
func work(dir string) int {
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	add := func(name, line string) {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			panic(err)
		}
		defer f.Close()
		fmt.Fprintln(f, line)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "exit")); err == nil {
		code, _ := strconv.Atoi(string(b))
		fmt.Fprintln(os.Stderr, "the reason is", code)
		return code
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP)
	add("workers", strconv.Itoa(os.Getpid()))
	conn, err := net.Dial("unixgram", os.Getenv(notifyEnv))
	if err != nil {
		panic(err)
	}
	conn.Write([]byte("READY=1\n"))
	for sig := range signals {
		if sig == syscall.SIGHUP {
			add("hups", "hup")
		} else if !has("stubborn") {
			return 0
		}
	}
	return 0
}

// daemon is one that a test drives.
type daemon struct {
	t   *testing.T
	dir string
}

func newDaemon(t *testing.T, files ...string) *daemon {
	t.Helper()
	d := &daemon{t, t.TempDir()}
	for i := 0; i < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(d.dir, files[i]), []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, pid := range d.workers() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if pid, _ := runningPid(filepath.Join(d.dir, "testd.pid")); pid != 0 {
			syscall.Kill(-pid, syscall.SIGKILL)
		}
	})
	return d
}

// run gives a command, and returns its exit code and what it said.
func (d *daemon) run(command string) (int, string) {
	d.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		d.t.Fatal(err)
	}
	defer r.Close()
	said := make(chan string, 1)
	go func() {
		var b bytes.Buffer
		b.ReadFrom(r)
		said <- b.String()
	}()
	code := testService(d.dir, w, w).Run(command)
	w.Close()
	return code, <-said
}

func (d *daemon) want(command string, code int, words ...string) {
	d.t.Helper()
	got, said := d.run(command)
	if got != code {
		d.t.Fatalf("%s exits with %d, want %d: %s", command, got, code, said)
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			d.t.Errorf("%s says %q, without %q", command, said, w)
		}
	}
}

func (d *daemon) lines(name string) []string {
	b, _ := os.ReadFile(filepath.Join(d.dir, name))
	return strings.Fields(string(b))
}

func (d *daemon) workers() []int {
	var pids []int
	for _, l := range d.lines("workers") {
		pid, _ := strconv.Atoi(l)
		pids = append(pids, pid)
	}
	return pids
}

func (d *daemon) eventually(what string, ok func() bool) {
	d.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatalf("never: %s", what)
		}
	}
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestLife(t *testing.T) {
	d := newDaemon(t)
	d.want("status", statusStopped, "not running")
	d.want("stop", exitOK)
	d.want("reload", exitNotRunning, "not running")
	d.want("start", exitOK)
	d.want("status", statusRunning, "is running")
	d.want("start", exitOK, "already")
	if n := len(d.workers()); n != 1 {
		t.Fatalf("%d workers after two starts", n)
	}
	d.want("reload", exitOK)
	d.eventually("the worker gets the SIGHUP", func() bool { return len(d.lines("hups")) == 1 })
	d.want("restart", exitOK)
	w := d.workers()
	if len(w) != 2 || alive(w[0]) || !alive(w[1]) {
		t.Fatalf("after a restart: workers %v", w)
	}
	d.want("stop", exitOK)
	if alive(w[1]) {
		t.Error("the worker outlives stop")
	}
	d.want("status", statusStopped)
	left, _ := filepath.Glob(filepath.Join(d.dir, "testd.pid*"))
	if len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestFailedStart(t *testing.T) {
	d := newDaemon(t, "exit", "1")
	d.want("start", exitFailed, "the reason is 1", "did not start")
	d.want("status", statusStopped)
	d = newDaemon(t, "exit", "2")
	d.want("start", exitNotConfigured, "the reason is 2", "config is wrong")
}

// TestManyStarts is what start-stop-daemon gets wrong: of several at once one
// starts the daemon, and all return when it is there.
func TestManyStarts(t *testing.T) {
	d := newDaemon(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if out, err := exec.Command(os.Args[0], "-config", d.dir, "start").CombinedOutput(); err != nil {
				t.Errorf("start: %v: %s", err, out)
			}
		})
	}
	wg.Wait()
	d.eventually("a worker runs", func() bool { return len(d.workers()) == 1 && alive(d.workers()[0]) })
	d.want("stop", exitOK)
}

func TestWorkerDies(t *testing.T) {
	d := newDaemon(t)
	d.want("start", exitOK)
	for i := 1; i <= 2; i++ {
		syscall.Kill(d.workers()[i-1], syscall.SIGKILL)
		d.eventually("another worker", func() bool { return len(d.workers()) == i+1 })
	}
	// One that can't live is not started in a loop, and can still be stopped.
	if err := os.WriteFile(filepath.Join(d.dir, "exit"), []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(d.workers()[2], syscall.SIGKILL)
	log := func() string { b, _ := os.ReadFile(filepath.Join(d.dir, "log", "testd.log")); return string(b) }
	d.eventually("a growing pause", func() bool { return strings.Contains(log(), "again in 6.4s") })
	if n := strings.Count(log(), "the reason is"); n > 3 {
		t.Errorf("%d tries in a few seconds", n)
	}
	d.want("status", statusRunning)
	d.want("stop", exitOK)
	d.want("status", statusStopped)
}

// TestWorkerCantBeStarted has no worker be started for a while in the place of one
// that died. The supervisor stays.
func TestWorkerCantBeStarted(t *testing.T) {
	d := newDaemon(t)
	d.want("start", exitOK)
	pid, err := runningPid(filepath.Join(d.dir, "testd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var was unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max}, nil); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(d.workers()[0], syscall.SIGKILL)
	log := func() string { b, _ := os.ReadFile(filepath.Join(d.dir, "log", "testd.log")); return string(b) }
	d.eventually("it has tried", func() bool { return strings.Count(log(), "can't start a worker") >= 2 })
	d.want("status", statusRunning)
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &was, nil); err != nil {
		t.Fatal(err)
	}
	d.eventually("another worker", func() bool { return len(d.workers()) == 2 })
	d.want("stop", exitOK)
	d.want("status", statusStopped)
}

// TestSupervisorDies has the worker stop with it, and nothing started meanwhile.
func TestSupervisorDies(t *testing.T) {
	d := newDaemon(t)
	d.want("start", exitOK)
	pid, err := runningPid(filepath.Join(d.dir, "testd.pid"))
	if err != nil || pid == 0 {
		t.Fatalf("pid %d, %v", pid, err)
	}
	w := d.workers()[0]
	syscall.Kill(pid, syscall.SIGKILL)
	d.eventually("the worker stops", func() bool { return !alive(w) })
	d.want("status", statusDead, "pid file")
	d.want("start", exitOK)
	d.want("stop", exitOK)
}

func TestBadConfig(t *testing.T) {
	d := newDaemon(t)
	s := testService(d.dir, os.Stdout, nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.Stderr, s.Problem = w, fmt.Errorf("aysfs.toml:3: it is wrong")
	if code := s.Run("start"); code != exitNotConfigured {
		t.Errorf("start exits with %d", code)
	}
	if code := s.Run("status"); code != statusStopped {
		t.Errorf("status exits with %d", code)
	}
	w.Close()
	var said bytes.Buffer
	said.ReadFrom(r)
	if !strings.Contains(said.String(), "aysfs.toml:3") {
		t.Errorf("said: %q", said.String())
	}
}
