package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// builtBinary is set by TestMain for the tests to run.
const builtBinary = "AYSFS_TEST_AYS"

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ays-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ays := filepath.Join(dir, "ays")
	build := exec.Command("go", "build", "-ldflags", "-X main.version=1.2.3 -X main.commit=abcdef", "-o", ays, ".")
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build ays:", err)
	} else {
		os.Setenv(builtBinary, ays)
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// outcome is what became of a run of ays.
type outcome struct {
	stdout, stderr string
	state          *os.ProcessState
}

func command(args ...string) *exec.Cmd { return exec.Command(os.Getenv(builtBinary), args...) }

// ays runs it and checks the exit code.
func ays(t *testing.T, code int, args ...string) outcome {
	t.Helper()
	cmd := command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, isExit := errors.AsType[*exec.ExitError](err); err != nil && !isExit {
		t.Fatal(err)
	}
	o := outcome{stdout.String(), stderr.String(), cmd.ProcessState}
	if got := o.state.ExitCode(); got != code {
		t.Fatalf("ays %q exited with %d, want %d\n%s%s", args, got, code, o.stdout, o.stderr)
	}
	return o
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func contains(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in\n%s", w, text)
		}
	}
}

// someTree is a directory with a few files.
func someTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/bin", 0o755))
	must(t, os.WriteFile(dir+"/bin/mongod", []byte("#!/bin/sh\n"), 0o755))
	must(t, os.Symlink("mongod", dir+"/bin/mongo"))
	must(t, os.WriteFile(dir+"/README", []byte(strings.Repeat("read me ", 1000)), 0o644))
	return dir
}
