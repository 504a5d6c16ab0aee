package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// workInAMount does until its standard input ends what programs do in a mount, and
// holds everything against the directory that was published: reads, lists, looks up
// what is not there; holds a file open, another one mapped, and works in a
// directory deep down. It drops from the kernel's pages what it has read, so that
// it is read anew. Nothing may fail.
func workInAMount(args []string) int {
	mount, tree := args[0], args[1]
	var over atomic.Bool
	go func() {
		os.Stdin.Read(make([]byte, 1))
		over.Store(true)
	}()
	w, err := newWork(mount, tree)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	failed := make(chan error, 8)
	var all sync.WaitGroup
	for _, job := range []func() error{w.read, w.read, w.list, w.lookUp, w.held, w.mapped, w.here} {
		all.Go(func() {
			for !over.Load() {
				if err := job(); err != nil {
					failed <- err
					return
				}
				w.rounds.Add(1)
			}
		})
	}
	all.Wait()
	fmt.Println(w.rounds.Load(), "rounds")
	close(failed)
	code := 0
	for err := range failed {
		fmt.Println("FAILED:", err)
		code = 1
	}
	return code
}

type work struct {
	mount, tree string
	files       []string
	sums        map[string][32]byte
	names       int // in the tree
	open        *os.File
	memory      []byte // map of the largest file
	largest     []byte // what is in it
	rounds      atomic.Int64
}

func newWork(mount, tree string) (*work, error) {
	w := &work{mount: mount, tree: tree, sums: make(map[string][32]byte)}
	largest, deepest := "", ""
	err := filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		w.names++
		name, _ := filepath.Rel(tree, path)
		if e.IsDir() {
			if strings.Count(name, "/") >= strings.Count(deepest, "/") {
				deepest = name
			}
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		w.files = append(w.files, name)
		w.sums[name] = sha256.Sum256(b)
		if len(b) > len(w.largest) {
			w.largest, largest = b, name
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if w.open, err = os.Open(filepath.Join(mount, w.files[len(w.files)/2])); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(mount, largest))
	if err != nil {
		return nil, err
	}
	if w.memory, err = unix.Mmap(int(f.Fd()), 0, len(w.largest), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	f.Close()
	return w, os.Chdir(filepath.Join(mount, deepest))
}

// dropped reads a file whole, which the kernel then forgets.
func dropped(f *os.File) ([]byte, error) {
	if _, err := f.Seek(0, 0); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(f); err != nil {
		return nil, err
	}
	return b.Bytes(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

func (w *work) read() error {
	for _, name := range w.files {
		f, err := os.Open(filepath.Join(w.mount, name))
		if err != nil {
			return err
		}
		b, err := dropped(f)
		f.Close()
		if err != nil {
			return err
		}
		if sha256.Sum256(b) != w.sums[name] {
			return fmt.Errorf("%s: wrong bytes", name)
		}
	}
	return nil
}

func (w *work) list() error {
	n := 0
	err := filepath.WalkDir(w.mount, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n++
		_, err = e.Info()
		return err
	})
	if err == nil && n != w.names {
		err = fmt.Errorf("%d names, want %d", n, w.names)
	}
	return err
}

func (w *work) lookUp() error {
	for range 20 {
		name := fmt.Sprint("none", time.Now().UnixNano())
		if _, err := os.Lstat(filepath.Join(w.mount, name)); !os.IsNotExist(err) {
			return fmt.Errorf("look up what is not there: %v", err)
		}
	}
	return nil
}

func (w *work) held() error {
	b, err := dropped(w.open)
	if err != nil {
		return err
	}
	if name := w.files[len(w.files)/2]; sha256.Sum256(b) != w.sums[name] {
		return fmt.Errorf("%s, held open: wrong bytes", name)
	}
	return nil
}

func (w *work) mapped() error {
	const piece = 1 << 20
	for off := 0; off < len(w.memory); off += piece {
		end := min(off+piece, len(w.memory))
		if !bytes.Equal(w.memory[off:end], w.largest[off:end]) {
			return fmt.Errorf("the map, at %d: wrong bytes", off)
		}
		if err := unix.Madvise(w.memory[off:end], unix.MADV_DONTNEED); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) here() error {
	entries, err := os.ReadDir(".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, err := os.Stat(e.Name()); err != nil {
			return err
		}
	}
	time.Sleep(time.Millisecond)
	return nil
}

// workers are programs at work in a mount.
type workers struct {
	t    *testing.T
	all  []*process
	outs []*bytes.Buffer
	ends []func()
}

// startWork has programs at work in a mount of what lies in tree: one of ours, and
// those that everybody has, over and over.
func startWork(t *testing.T, mount, tree string) *workers {
	t.Helper()
	ws := &workers{t: t}
	ws.add(child(t, "work in a mount", mount, tree))
	const script = `
		cd "$1" || exit 1
		while ! read -t 0.01 x; do
			# bash reads with a time limit from what does not end
			got=$(tar -cf - --sort=name --mtime=@0 --owner=0 --group=0 . | sha256sum) || exit 1
			[ "$got" = "$3" ] || { echo "tar: $got, want $3"; exit 1; }
			n=$(find . -ls | wc -l) || exit 1
			[ "$n" = "$4" ] || { echo "find: $n names, want $4"; exit 1; }
			sha256sum --quiet -c "$5" || exit 1
		done`
	sums := filepath.Join(t.TempDir(), "sums")
	list := run(t, time.Minute, "sh", "-c", `cd "$1" && find . -type f -print0 | xargs -0 sha256sum >"$2"; tar -cf - --sort=name --mtime=@0 --owner=0 --group=0 . | sha256sum; find . | wc -l`, "sh", tree, sums)
	lines := strings.Split(list, "\n")
	ws.add(exec.Command("bash", "-c", script, "bash", mount, tree, lines[0], lines[1], sums))
	return ws
}

func (ws *workers) add(cmd *exec.Cmd) {
	ws.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		ws.t.Fatal(err)
	}
	out := &bytes.Buffer{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, out, out
	cmd.WaitDelay = time.Second
	ws.all = append(ws.all, startProcess(ws.t, cmd))
	ws.outs = append(ws.outs, out)
	ws.ends = append(ws.ends, sync.OnceFunc(func() { w.Write([]byte("\n")); w.Close() }))
	r.Close()
	ws.t.Cleanup(func() { w.Close() })
}

// working fails the test when one has ended.
func (ws *workers) working() {
	ws.t.Helper()
	for i, p := range ws.all {
		if p.endsWithin(0) {
			ws.t.Fatalf("%.60s ended: %v\n%s", strings.Join(p.Args, " "), p.err, ws.outs[i])
		}
	}
}

// end ends them, which must all have done well.
func (ws *workers) end() {
	ws.t.Helper()
	for _, f := range ws.ends {
		f()
	}
	for i, p := range ws.all {
		if !p.endsWithin(2 * time.Minute) {
			ws.t.Fatalf("%.60s hangs", strings.Join(p.Args, " "))
		}
		if p.err != nil {
			ws.t.Errorf("%.60s: %v\n%s", strings.Join(p.Args, " "), p.err, ws.outs[i])
		}
		ws.t.Logf("%.40s: %s", strings.Join(p.Args, " "), ws.outs[i])
	}
}

// outages are how long a mount did not answer.
type outages []time.Duration

func (o outages) String() string {
	s := slices.Sorted(slices.Values(o))
	return fmt.Sprintf("%d times, without an answer for %v, %v, %v (median, nine of ten, all)", len(s),
		s[len(s)/2].Round(time.Millisecond), s[len(s)*9/10].Round(time.Millisecond), s[len(s)-1].Round(time.Millisecond))
}

// answers returns how long a mount takes to answer what no cache can.
func answers(t *testing.T, mount string) time.Duration {
	t.Helper()
	began := time.Now()
	var err error
	within(t, 40*time.Second, "look up a name", func() {
		_, err = os.Lstat(filepath.Join(mount, fmt.Sprint("absent", began.UnixNano())))
	})
	if !os.IsNotExist(err) {
		t.Fatalf("look up a name: %v", err)
	}
	return time.Since(began)
}
