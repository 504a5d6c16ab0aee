package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conditions, in the order in which they are measured.
const (
	cold = "cold"
	disk = "disk"
	page = "page"
)

var conditions = []string{cold, disk, page}

// work is something that people do with a tree.
type work struct {
	name string
	tree string
	// run does it in dir and tells how long it took.
	run func(ctx context.Context, t *tree, dir, when string) (time.Duration, error)
	// programs are what it runs that is not in the tree: they are read before,
	// so that they don't come from a cold disk.
	programs []string
	// peers do it, too.
	peers bool
	// whole means that it reads every byte of the tree.
	whole bool
	// asked means that it is done only where it is asked for.
	asked bool
	// long has ten times the limit, is done once, and unless it or they are asked
	// for by the reference and the subject alone, page.
	long bool
}

var works = []work{
	{name: "find", tree: "go", run: command("find", "."), programs: []string{"find"}, peers: true},
	{name: "ls", tree: "go", run: command("ls", "-lR", "."), programs: []string{"ls"}},
	{name: "stat", tree: "go", run: statAll, asked: true},
	{name: "tar", tree: "go", run: command(tarArgs...), programs: []string{"tar"}, peers: true, whole: true},
	{name: "grep", tree: "go", run: grep, programs: []string{"grep"}, whole: true},
	{name: "python", tree: "python", run: python, peers: true},
	{name: "big", tree: "big", run: readAll, peers: true, whole: true},
	{name: "rand1", tree: "big", run: randomReads(1)},
	{name: "rand8", tree: "big", run: randomReads(8)},
	{name: "build", tree: "go", run: buildStd, long: true},
}

var tarArgs = []string{"tar", "-cf", "-", "."}

func workNames() (names []string) {
	for _, w := range works {
		names = append(names, w.name)
	}
	return append(append(names, demandWork, siteWork, manyWork), serveNames()...)
}

// command runs a program in the tree and reads all that it prints.
func command(args ...string) func(context.Context, *tree, string, string) (time.Duration, error) {
	return func(ctx context.Context, _ *tree, dir, _ string) (time.Duration, error) {
		return timed(ctx, dir, nil, args...)
	}
}

// timed runs a program with more of an environment in dir, and reads all that it
// prints. It is a shell that goes to dir and becomes the program: from the fork
// to the exec no thread of this process gets past a stop of the collector, and
// the link, which the mount may be waiting for, is in this process.
func timed(ctx context.Context, dir string, env []string, args ...string) (time.Duration, error) {
	script := []string{"-c", `cd "$0" && exec "$@"`, dir}
	if len(env) > 0 {
		script = append(append(script, "env"), env...)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", append(script, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	unix.FcntlInt(r.Fd(), unix.F_SETPIPE_SZ, 1<<20)
	cmd.Stdout = w
	said := &tail{}
	cmd.Stderr = said
	began := time.Now()
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, err
	}
	drain(r)
	err = cmd.Wait()
	took := time.Since(began)
	if err != nil {
		return took, fmt.Errorf("%s: %w: %s", args[0], err, said.b)
	}
	return took, nil
}

// drain reads to the end.
func drain(r io.Reader) {
	buf := make([]byte, 1<<20)
	for {
		if _, err := r.Read(buf); err != nil {
			return
		}
	}
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	t.b = t.b[max(0, len(t.b)-500):]
	return len(b), nil
}

// grep looks for what is nowhere.
func grep(ctx context.Context, _ *tree, dir, _ string) (time.Duration, error) {
	took, err := timed(ctx, dir, nil, "grep", "-rF", "what no file of this tree has "+"in it", ".")
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		err = nil // nothing found
	}
	return took, err
}

// python starts the published Python with some of its library.
func python(ctx context.Context, _ *tree, dir, _ string) (time.Duration, error) {
	return timed(ctx, dir, pythonEnv(dir), pythonCommand(dir)...)
}

func pythonEnv(dir string) []string {
	return []string{"PYTHONHOME=" + dir, "LD_LIBRARY_PATH=" + filepath.Join(dir, "lib")}
}

func pythonCommand(dir string) []string {
	return []string{filepath.Join(dir, "bin/python3"), "-B", "-s", "-c",
		"import asyncio, json, ssl, sqlite3, http.server, xml.etree.ElementTree, unittest, email"}
}

// buildStd compiles Go's library with the compiler and the sources of the tree.
func buildStd(ctx context.Context, _ *tree, dir, _ string) (time.Duration, error) {
	cache, err := os.MkdirTemp("", "gocache-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(cache)
	if _, err := os.Stat(filepath.Join(dir, "bin/go")); err != nil {
		return 0, fmt.Errorf("%w: the tree has no compiler", errAbsent)
	}
	env := []string{"GOROOT=" + dir, "GOCACHE=" + cache, "GOTOOLCHAIN=local", "GOFLAGS=", "GOPROXY=off", "CGO_ENABLED=0"}
	return timed(ctx, filepath.Join(dir, "src"), env, filepath.Join(dir, "bin/go"), "build", "std")
}
