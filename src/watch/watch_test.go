package watch

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start watches files; the watcher must end with the test.
func start(t *testing.T, kernel bool, files ...string) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	list := func() []string { return files }
	var changed <-chan struct{}
	if kernel {
		changed = Files(ctx, list, log)
	} else {
		w := &watcher{files: list, log: log, writing: map[string]bool{}, opens: map[string]int{}}
		w.seen = w.look()
		c := make(chan struct{}, 1)
		go func() {
			defer close(c)
			w.run(ctx, c)
		}()
		changed = c
	}
	t.Cleanup(func() {
		cancel()
		for {
			select {
			case _, more := <-changed:
				if !more {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatal("still watching after the end")
			}
		}
	})
	return changed
}

func wantChange(t *testing.T, changed <-chan struct{}) {
	t.Helper()
	select {
	case <-changed:
	case <-time.After(patience / 2): // or it was not told of until patience ran out
		t.Fatal("a change was not told")
	}
}

// told waits for longer than a change may take to be told, and says whether one
// was.
func told(changed <-chan struct{}) bool {
	select {
	case <-changed:
		return true
	case <-time.After(pollEvery + 3*quiet):
		return false
	}
}

func wantNone(t *testing.T, changed <-chan struct{}) {
	t.Helper()
	if told(changed) {
		t.Fatal("told of a change that was none")
	}
}

// TestChanges goes through the ways in which a file becomes another one.
func TestChanges(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, file string){
		"written in place": func(t *testing.T, file string) { must(t, os.WriteFile(file, []byte("b"), 0o644)) },
		"an editor's rename": func(t *testing.T, file string) {
			must(t, os.Rename(file, file+"~"))
			must(t, os.WriteFile(file+".swp", []byte("b"), 0o644))
			must(t, os.Rename(file+".swp", file))
		},
		"cut short": func(t *testing.T, file string) { must(t, os.Truncate(file, 0)) },
		"removed":   func(t *testing.T, file string) { must(t, os.Remove(file)) },
		"a symlink in its place": func(t *testing.T, file string) {
			other := filepath.Join(t.TempDir(), "other")
			must(t, os.WriteFile(other, []byte("a"), 0o644))
			must(t, os.Symlink(other, file+".new"))
			must(t, os.Rename(file+".new", file))
		},
		"a burst": func(t *testing.T, file string) {
			for i := range 50 {
				must(t, os.WriteFile(file, fmt.Append(nil, i), 0o644))
				time.Sleep(time.Millisecond)
			}
		},
	} {
		for _, kernel := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, kernel %v", name, kernel), func(t *testing.T) {
				t.Parallel()
				file := filepath.Join(t.TempDir(), "file")
				must(t, os.WriteFile(file, []byte("a"), 0o644))
				changed := start(t, kernel, file)
				must(t, os.WriteFile(filepath.Join(filepath.Dir(file), "another"), nil, 0o644))
				change(t, file)
				wantChange(t, changed)
				// A machine that is slow makes pauses of its own in a burst.
				for extra := 0; told(changed); extra++ {
					if extra > 10 {
						t.Fatal("a burst of changes is told one by one")
					}
				}
			})
		}
	}
}

// TestSwappedDirectory is how a config manager puts a whole set of files in place.
func TestSwappedDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	for i, version := range []string{"one", "two", "three"} {
		must(t, os.Mkdir(filepath.Join(dir, version), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, version, "file"), fmt.Append(nil, i), 0o644))
	}
	must(t, os.Symlink("one", filepath.Join(dir, "data")))
	must(t, os.Symlink("data/file", file))
	changed := start(t, true, file)
	for _, version := range []string{"two", "three"} {
		must(t, os.Symlink(version, filepath.Join(dir, "next")))
		must(t, os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "data")))
		wantChange(t, changed)
	}
	wantNone(t, changed)
	must(t, os.WriteFile(filepath.Join(dir, "three/file"), []byte("in place"), 0o644))
	wantChange(t, changed)
}

// TestHalfWritten: a file that is still open for writing is not told of.
func TestHalfWritten(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, []byte("whole"), 0o644))
	changed := start(t, true, file)
	f, err := os.Create(file)
	must(t, err)
	_, err = f.WriteString("ha")
	must(t, err)
	wantNone(t, changed)
	_, err = f.WriteString("lf")
	must(t, err)
	must(t, f.Close())
	wantChange(t, changed)
	if b, _ := os.ReadFile(file); string(b) != "half" {
		t.Errorf("got %q", b)
	}
}

// TestAppears: neither the file nor its directory is there at first.
func TestAppears(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "dir", "file")
	changed := start(t, true, file)
	must(t, os.Mkdir(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte("a"), 0o644))
	wantChange(t, changed)
}

func TestParse(t *testing.T) {
	one := []byte{1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 'a', 'b', 0, 0}
	got := parse(append(append([]byte{}, one...), one...))
	if len(got) != 2 || got[1] != (event{2, "ab"}) {
		t.Errorf("got %v", got)
	}
	for n := range len(one) {
		parse(one[:n]) // a short one must not fault
	}
}
