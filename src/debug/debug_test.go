package debug

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/redistest"
	"github.com/aysfs/aysfs/src/tier"
)

const patience = 30 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sum(b []byte) string {
	s := md5.Sum(b)
	return hex.EncodeToString(s[:])
}

func file(path, content string, mode uint32) File {
	return File{Change{path, sum([]byte(content)), int64(len(content)), mode}, strings.NewReader(content)}
}

func removed(path string) File { return File{Change: Change{Path: path}} }

func open(t testing.TB, r *redistest.Server, o Options) *Store {
	t.Helper()
	o.Addr, o.Passwd = r.Addr, r.Passwd
	if o.Mount == "" {
		o.Mount = "m"
	}
	if o.Client == "" {
		o.Client = "web17"
	}
	s := New(o)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// entries is the whole log, without the times.
func entries(t testing.TB, s *Store) []Entry {
	t.Helper()
	var all []Entry
	must(t, s.Log(t.Context(), func(e Entry) error {
		if age := time.Since(e.Time); age < -time.Minute || age > time.Hour {
			t.Errorf("%q is of %v", e.Path, e.Time)
		}
		e.Time = time.Time{}
		all = append(all, e)
		return nil
	}))
	return all
}

func equal(t testing.TB, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestRecord(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "secret")
	s := open(t, r, Options{})
	ctx := t.Context()

	all, err := s.All(ctx)
	must(t, err)
	equal(t, all, map[string]Change{})
	if _, ok, err := s.Lookup(ctx, "none"); ok || err != nil {
		t.Errorf("got %v, %v", ok, err)
	}

	odd := "dir/\xffnot utf-8 \"é\"\n𝄞"
	files := []File{
		file("bin/x", "#!/bin/sh\n", 0o100755), file("plain", "text", 0), file("empty", "", 0), file(odd, "odd", 0),
		file("link", "bin/x", 0o120777), file("dir", "", 0o040755), file("same", "text", 0),
	}
	want := map[string]Change{}
	var log []Entry
	for i, f := range files {
		want[f.Path] = f.Change
		log = append(log, Entry{Index: int64(i), Path: f.Path, MD5: f.MD5, Who: "web17"})
	}
	must(t, s.Record(ctx, files))
	all, err = s.All(ctx)
	must(t, err)
	equal(t, all, want)
	equal(t, entries(t, s), log)
	for _, f := range files {
		got, err := s.Content(ctx, f.MD5, f.Size)
		must(t, err)
		if sum(got) != f.MD5 {
			t.Errorf("%q: got %q", f.Path, got)
		}
	}

	// A rename.
	must(t, s.Record(ctx, []File{file("bin/y", "#!/bin/sh\n", 0o100755), removed("bin/x")}))
	for path, w := range map[string]Change{"bin/y": {"bin/y", sum([]byte("#!/bin/sh\n")), 10, 0o100755}, "bin/x": {Path: "bin/x"}} {
		got, ok, err := s.Lookup(ctx, path)
		if err != nil || !ok || got != w {
			t.Errorf("got %+v, %v, %v", got, ok, err)
		}
	}
	if all, _ = s.All(ctx); !all["bin/x"].Removed() {
		t.Errorf("got %+v", all["bin/x"])
	}
	if got := entries(t, s); len(got) != 9 || got[8].MD5 != "" || got[8].Path != "bin/x" {
		t.Errorf("got %+v", got)
	}
	n, err := s.Count(ctx)
	must(t, err)
	equal(t, n, Counts{Paths: 8, Contents: 5, Entries: 9})

	// Another mount is another world.
	other := open(t, r, Options{Mount: "other"})
	if all, err := other.All(ctx); len(all) != 0 || err != nil {
		t.Errorf("got %v, %v", all, err)
	}
	must(t, other.Record(ctx, []File{file("a", "text", 0)}))
	must(t, s.Clear(ctx))
	if n, err := s.Count(ctx); n != (Counts{}) || err != nil {
		t.Errorf("got %v, %v", n, err)
	}
	if n, err := other.Count(ctx); n != (Counts{1, 1, 1}) || err != nil {
		t.Errorf("got %v, %v", n, err)
	}
	if _, err := s.Content(ctx, sum([]byte("text")), 4); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("got %v", err)
	}
}

// TestLayout checks the very bytes in redis, as the contract has them.
func TestLayout(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "secret")
	s := open(t, r, Options{Client: `web"17`})
	hello := "5d41402abc4b2a76b9719d911017c592"
	must(t, s.Record(t.Context(), []File{file("a b", "hello", 0), file("x", "hello", 0o100755), file("é\xff", "", 0), removed("gone")}))
	for want, cmd := range map[string][]string{
		hello + ",5":        {"HGET", "debug:paths:m", "a b"},
		hello + ",5,100755": {"HGET", "debug:paths:m", "x"},
		EmptyMD5 + ",0":     {"HGET", "debug:paths:m", "é\xff"},
		",0":                {"HGET", "debug:paths:m", "gone"},
		"hello":             {"HGET", "debug:files:m", hello},
		"":                  {"HGET", "debug:files:m", EmptyMD5},
		"1":                 {"HEXISTS", "debug:files:m", EmptyMD5},
		"2":                 {"HLEN", "debug:files:m"},
		"4":                 {"LLEN", "debug:log:m"},
		"debug:files:m":     {"KEYS", "debug:f*"},
		"web\"17":           {"EVAL", `return cjson.decode(redis.call("LINDEX", "debug:log:m", 0))[4]`, "0"},
		"a b":               {"EVAL", `return cjson.decode(redis.call("LINDEX", "debug:log:m", 0))[2]`, "0"},
		"x" + hello:         {"EVAL", `local e = cjson.decode(redis.call("LINDEX", "debug:log:m", 1)) return e[2]..e[3]`, "0"},
		`,"é\udcff","` + EmptyMD5 + `","web\"17"`: {"EVAL", `return string.match(redis.call("LINDEX", "debug:log:m", 2), "^%[%d+(,.*)%]$")`, "0"},
	} {
		if got := r.CLI(cmd...); got != want {
			t.Errorf("%q: got %q, want %q", cmd, got, want)
		}
	}

	// What a script wrote, with three fields and without modes.
	r.CLI("HSET", "debug:files:m", hello, "hello")
	r.CLI("HSET", "debug:paths:m", "by hand", hello+",5")
	r.CLI("RPUSH", "debug:log:m", `[1700000000.5, "by \u0068and", "`+hello+`"]`)
	c, ok, err := s.Lookup(t.Context(), "by hand")
	if want := (Change{"by hand", hello, 5, 0}); c != want || !ok || err != nil {
		t.Errorf("got %+v, %v, %v", c, ok, err)
	}
	var last Entry
	must(t, s.Log(t.Context(), func(e Entry) error { last = e; return nil }))
	equal(t, last, Entry{4, time.Unix(1700000000, 5e8), "by hand", hello, ""})
}

// TestPathsOfBytes writes paths, and reads them with Go and as doc.go says.
func TestPathsOfBytes(t *testing.T) {
	for _, path := range []string{
		"plain", "é/𝄞/\u2028", "\xff", "a\x80\xc3", "\xed\xb2\x80", "\xed\xa0\x80\xed\xb0\x80", "back\\slash \"q\" \t\n\x01\x7f", "\ufffd", "<&>", `\udcff`, `\u0041`, "\xf0\x9f",
	} {
		line := Entry{Path: path, Time: time.Unix(1, 0)}.encode()
		e, err := parseEntry(0, line)
		if err != nil || e.Path != path {
			t.Errorf("%q: got %q, %v from %s", path, e.Path, err, line)
		}
		out, err := exec.Command("python3", "-c", "import json,os,sys; sys.stdout.buffer.write(os.fsencode(json.loads(sys.argv[1])[1]))", line).Output()
		if err != nil || string(out) != path {
			t.Errorf("%q: python reads %q, %v from %s", path, out, err, line)
		}
	}
	// As others spell them.
	for spelled, want := range map[string]string{
		`"\ud834\udd1e"`: "𝄞", `"\ud834x"`: "\ufffdx", `"\ud834\u0041"`: "\ufffdA", `"\/\b\f\n\r\t\\\""`: "/\b\f\n\r\t\\\"", `"\udcff\udc80"`: "\xff\x80", `"\ud834"`: "\ufffd",
		"\"\xff\"": "\xff",
	} {
		if got, err := parseJSON([]byte(spelled)); got != want || err != nil {
			t.Errorf("%s: got %q, %v", spelled, got, err)
		}
	}
}

func FuzzEntry(f *testing.F) {
	f.Add("a/b", "\xff")
	f.Add(`"\`, `é\udcff`)
	f.Fuzz(func(t *testing.T, path, who string) {
		line := Entry{Path: path, Who: who}.encode()
		e, err := parseEntry(0, line)
		if CheckPath(path) != nil {
			if err == nil {
				t.Errorf("%q is taken", path)
			}
			return
		}
		if err != nil || e.Path != path || e.Who != who {
			t.Errorf("%q, %q: got %+v, %v from %s", path, who, e, err, line)
		}
	})
}

// FuzzWire lets redis say anything: what is taken of it stays in the mount, and is
// what would be written for it.
func FuzzWire(f *testing.F) {
	hello := sum([]byte("hello"))
	for _, value := range []string{hello + ",5", hello + ",5,100755", hello + ",5,120777", ",0", EmptyMD5 + ",0,40755", hello + ",+5", hello + ",-0", hello + ",5,0", hello + ",5,107777777777"} {
		f.Add("a/b", value, `[1700000000,"a/b","`+hello+`"]`)
	}
	for _, line := range []string{`[1.5e3,"a/\u00e9\udcff","","me"]`, `[1e40,"a",""]`, `[1,"../a",""]`, `[1,"a",""]x`, `[1,null,""]`, `[1,"\ud800\udc00",""]`, `[1,["a"],""]`, `[-1,"a\u0000",""]`, `{"a":1}`} {
		f.Add("../a", hello+",5", line)
	}
	f.Fuzz(func(t *testing.T, path, value, line string) {
		if c, err := parseChange(path, value); err == nil {
			again, err := parseChange(path, c.value())
			if err != nil || again != c || !filepath.IsLocal(c.Path) || c.Size < 0 || c.Mode&^(ModeKind|ModePerm) != 0 {
				t.Fatalf("%q, %q: %+v, then %+v, %v", path, value, c, again, err)
			}
		} else if !errors.Is(err, ErrFormat) || strings.ContainsAny(err.Error(), "\n\r\x00\x1b") {
			t.Fatalf("%q, %q: %v", path, value, err)
		}
		if e, err := parseEntry(7, line); err == nil {
			again, err := parseEntry(7, e.encode())
			again.Time = e.Time // which is written in whole seconds
			if err != nil || again != e || !filepath.IsLocal(e.Path) || strings.Contains(e.Path, "\x00") {
				t.Fatalf("%q: %+v, then %+v, %v", line, e, again, err)
			}
		} else if !errors.Is(err, ErrFormat) || strings.ContainsAny(err.Error(), "\n\r\x00\x1b") {
			t.Fatalf("%q: %v", line, err)
		}
		raw, err := JSONPath(path).MarshalJSON()
		var back JSONPath
		if err == nil {
			err = json.Unmarshal(raw, &back)
		}
		if err != nil || string(back) != path {
			t.Fatalf("%q as JSON is %s, which is %q, %v", path, raw, back, err)
		}
	})
}

func TestRefused(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "")
	var said bytes.Buffer
	s := open(t, r, Options{Log: slog.New(slog.NewTextHandler(&said, nil))})
	ctx := t.Context()
	hello := sum([]byte("hello"))
	long := strings.Repeat("n", 256)
	for _, path := range []string{"", "/etc/passwd", "..", "../x", "a/../../b", "a//b", "a/", "./a", "a/.", "nul\x00", long, strings.Repeat("d/", 2048) + "x"} {
		if err := s.Record(ctx, []File{file("good", "x", 0), file(path, "hello", 0)}); !errors.Is(err, ErrFormat) {
			t.Errorf("%.20q: got %v", path, err)
		}
		if !strings.Contains(path, "\x00") { // which no argument of a program can have
			r.CLI("HSET", "debug:paths:m", path, hello+",5")
		}
	}
	for i, v := range []string{"", hello, hello + ",", hello + ",x", hello + ",-1", hello + ",5,9", hello + ",5,755", hello + ",5,60644", hello + ",5,100644,x",
		strings.ToUpper(hello) + ",5", hello[1:] + ",5", ",5", hello + ",0", EmptyMD5 + ",1", hello + ",5,40755", hello + ",5,7777777777777"} {
		r.CLI("HSET", "debug:paths:m", fmt.Sprint("bad", i), v)
		if _, ok, err := s.Lookup(ctx, fmt.Sprint("bad", i)); ok || !errors.Is(err, ErrFormat) {
			t.Errorf("%q: got %v, %v", v, ok, err)
		}
	}
	for _, e := range []string{"", "{}", "[]", `[1,"a"]`, `["1","a",""]`, `[1,"a","xyz"]`, `[1,"../a",""]`, `[1,2,3]`, `[1e300,"a",""]`, `[1,"a","","",""]`} {
		r.CLI("RPUSH", "debug:log:m", e)
	}
	must(t, s.Record(ctx, []File{file("good", "x", 0)}))
	all, err := s.All(ctx)
	must(t, err)
	equal(t, all, map[string]Change{"good": file("good", "x", 0).Change})
	equal(t, entries(t, s), []Entry{{10, time.Time{}, "good", sum([]byte("x")), "web17"}})
	if n := strings.Count(said.String(), "level=WARN"); n != 11+16+10 {
		t.Errorf("%d warnings:\n%s", n, said.String())
	}

	for _, f := range []File{
		{Change{"a", hello, 5, 0}, nil},
		{Change{"a", hello, 5, 0o100644}, strings.NewReader("hell")},
		{Change{"a", hello, 5, 0o100644}, strings.NewReader("jello")},
		{Change{"a", hello, 5, 0o060644}, strings.NewReader("hello")},
	} {
		before, _ := s.Count(ctx)
		if err := s.Record(ctx, []File{file("b", "other", 0), f}); err == nil {
			t.Errorf("%+v was taken", f)
		}
		if n, err := s.Count(ctx); n != before || err != nil {
			t.Errorf("%+v left something: %+v, %v", f, n, err)
		}
	}
}

// TestLies has contents that are not what their names say.
func TestLies(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "")
	s := open(t, r, Options{})
	hello := sum([]byte("hello"))
	for _, lie := range []string{"jello", "hell", strings.Repeat("x", 1<<20)} {
		r.CLI("DEL", "debug:files:m")
		cmd := exec.Command("redis-cli", "-u", "redis://"+r.Addr, "-x", "HSET", "debug:files:m", hello)
		cmd.Stdin = strings.NewReader(lie)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if b, err := s.Content(t.Context(), hello, 5); b != nil || !errors.Is(err, tier.ErrCorrupt) {
			t.Errorf("got %q, %v", b, err)
		}
	}
	// A content of another length is put right by the next who has it.
	must(t, s.Record(t.Context(), []File{file("a", "hello", 0)}))
	if b, err := s.Content(t.Context(), hello, 5); string(b) != "hello" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	full := errors.New("disk full")
	if err := s.Copy(t.Context(), failing{full}, hello, 5); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestContentIsSentOnce counts what goes over the wire.
func TestContentIsSentOnce(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "")
	s := open(t, r, Options{})
	content := strings.Repeat("0123456789abcdef", 1<<16)
	in := func() int {
		var n int
		for line := range strings.Lines(r.CLI("INFO", "stats")) {
			_, _ = fmt.Sscanf(line, "total_net_input_bytes:%d", &n)
		}
		return n
	}
	must(t, s.Record(t.Context(), []File{file("a", content, 0)}))
	first := in()
	must(t, s.Record(t.Context(), []File{file("a", content, 0o100755), file("b", content, 0)}))
	if n := in() - first; first < len(content) || n > 10_000 {
		t.Errorf("%d bytes, then %d", first, n)
	}
	// Unless it was cleared in between, which the transaction notices.
	var f File = file("c", content, 0)
	err := s.conns.use(t.Context(), "race", func(c *call) error {
		had, err := s.watch(c, []File{f})
		if err != nil || !had[f.MD5] {
			return fmt.Errorf("%v, %w", had, err)
		}
		must(t, s.Clear(t.Context()))
		if raced, err := s.exec(c, []File{f}, had); !raced || err != nil {
			t.Errorf("got %v, %v", raced, err)
		}
		if n, err := s.Count(t.Context()); n != (Counts{}) || err != nil {
			t.Errorf("got %v, %v", n, err)
		}
		_, err = s.exec(c, []File{f}, nil)
		return err
	})
	must(t, err)
	if n, err := s.Count(t.Context()); n != (Counts{1, 1, 1}) || err != nil {
		t.Errorf("got %v, %v", n, err)
	}
}

// TestClearWhileRecording has one clear what others write: whatever is left is
// whole.
func TestClearWhileRecording(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "")
	s := open(t, r, Options{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 100 {
				if err := s.Record(t.Context(), []File{file(fmt.Sprint(i), fmt.Sprint("content ", n%3), 0)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 30 {
		must(t, s.Clear(t.Context()))
		time.Sleep(time.Millisecond)
	}
	wg.Wait()
	all, err := s.All(t.Context())
	must(t, err)
	for _, c := range all {
		if _, err := s.Content(t.Context(), c.MD5, c.Size); err != nil {
			t.Error(err)
		}
	}
}

func TestServerRefuses(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "secret", "--maxmemory", "20mb", "--maxmemory-policy", "noeviction")
	s := open(t, r, Options{})
	ctx := t.Context()
	must(t, s.Record(ctx, []File{file("a", "old", 0)}))
	big := strings.Repeat("0123456789abcdef", 1<<20)
	var err error
	for i := 0; err == nil && i < 4; i++ {
		err = s.Record(ctx, []File{file("b", big+fmt.Sprint(i), 0)})
	}
	if !errors.Is(err, tier.ErrUnavailable) || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("got %v", err)
	}
	before, err := s.Count(ctx)
	must(t, err)
	if err := s.Record(ctx, []File{file("a", "new", 0), file("b", "9"+big+big, 0)}); err == nil {
		t.Error("it took what there is no room for")
	}
	if n, err := s.Count(ctx); n != before || err != nil {
		t.Errorf("got %v, want %v: %v", n, before, err)
	}
	must(t, s.Clear(ctx))
	must(t, s.Record(ctx, []File{file("a", "new", 0)}))

	r.CLI("SET", "debug:paths:odd", "a string")
	odd := open(t, r, Options{Mount: "odd"})
	if _, err := odd.All(ctx); !errors.Is(err, tier.ErrUnavailable) || !strings.Contains(err.Error(), "WRONGTYPE") {
		t.Errorf("got %v", err)
	}
	if err := odd.Record(ctx, []File{file("a", "x", 0)}); err == nil || !strings.Contains(err.Error(), "WRONGTYPE") {
		t.Errorf("got %v", err)
	}

	for _, passwd := range []string{"", "very wrong"} {
		wrong := New(Options{Addr: r.Addr, Passwd: passwd, Mount: "m"})
		_, err := wrong.All(ctx)
		if !errors.Is(err, tier.ErrDenied) || strings.Contains(err.Error(), "very") || !strings.Contains(err.Error(), r.Addr) {
			t.Errorf("got %v", err)
		}
		must(t, wrong.Close())
	}
	open := redistest.Start(t, "")
	wrong := New(Options{Addr: open.Addr, Passwd: "very wrong", Mount: "m"})
	if _, err := wrong.All(ctx); !errors.Is(err, tier.ErrDenied) || strings.Contains(err.Error(), "very") {
		t.Errorf("got %v", err)
	}
	must(t, wrong.Close())
}

// TestKilled kills redis around Record, at random moments: what it changes is
// there wholly or not at all, and what was acknowledged is.
func TestKilled(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "secret", redistest.AppendOnly...)
	s := open(t, r, Options{Timeout: 5 * time.Second})
	ctx := t.Context()
	content := strings.Repeat("0123456789abcdef", 1<<15)
	acked, torn := -1, 0
	next := 0
	for round := range 10 {
		stop := time.After(time.Duration(20+round*15) * time.Millisecond)
		failed := make(chan int, 1)
		go func() {
			defer close(failed)
			for n := next; ; n++ {
				err := s.Record(ctx, []File{file("a", fmt.Sprint(n, content), 0), file("b", fmt.Sprint(n, content), 0), removed(fmt.Sprint("gone", n))})
				if err != nil {
					failed <- n
					return
				}
			}
		}()
		<-stop
		r.Kill()
		n := <-failed
		acked = n - 1
		r.Restart()
		all, err := s.All(ctx)
		must(t, err)
		whole := -1
		for i := n; i >= 0 && whole < 0; i-- {
			if _, ok := all[fmt.Sprint("gone", i)]; ok {
				whole = i
			}
		}
		if whole < acked || whole > n {
			t.Fatalf("%d was acknowledged, %d is there", acked, whole)
		}
		if whole == n {
			torn++ // all there, though it was not acknowledged
		}
		if whole >= 0 {
			for _, path := range []string{"a", "b"} {
				want := fmt.Sprint(whole, content)
				if all[path].MD5 != sum([]byte(want)) {
					t.Errorf("%s is not of %d", path, whole)
				}
				b, err := s.Content(ctx, all[path].MD5, all[path].Size)
				if err != nil || string(b) != want {
					t.Errorf("%s: %d bytes, %v", path, len(b), err)
				}
			}
		}
		if got := entries(t, s); len(got) != 3*(whole+1) && round == 0 {
			t.Errorf("%d entries after %d", len(got), whole)
		}
		next = n
	}
	// To repeat what was not acknowledged does no harm.
	must(t, s.Record(ctx, []File{file("a", "x", 0)}))
	must(t, s.Record(ctx, []File{file("a", "x", 0)}))
	t.Logf("%d records acknowledged; %d of 10 were there without", acked+1, torn)
}

// TestFrozen stops redis in its tracks: calls end in time, and work again once
// it goes on.
func TestFrozen(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "secret")
	s := open(t, r, Options{Timeout: 300 * time.Millisecond})
	ctx := context.Background()
	must(t, s.Record(ctx, []File{file("a", "x", 0)}))
	r.Freeze()
	big := strings.Repeat("0123456789abcdef", 1<<20) // more than all buffers between
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			start := time.Now()
			_, err := s.All(ctx)
			if i%2 == 0 {
				err = s.Record(ctx, []File{file("b", big, 0)})
			}
			if took := time.Since(start); !errors.Is(err, tier.ErrUnavailable) || errors.Is(err, context.Canceled) || took > 10*time.Second {
				t.Errorf("after %v: %v", took, err)
			}
		})
	}
	wg.Wait()
	limited, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, _, err := s.Lookup(limited, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	r.Thaw()
	eventually(t, func() error {
		_, ok, err := s.Lookup(ctx, "a")
		if err == nil && !ok {
			err = errors.New("it is gone")
		}
		return err
	})
}

// TestFrozenInTheMiddle freezes it while a content goes over.
func TestFrozenInTheMiddle(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "")
	s := open(t, r, Options{Timeout: 500 * time.Millisecond})
	big := strings.Repeat("0123456789abcdef", 1<<20)
	f := file("b", big, 0)
	f.Data = &hook{strings.NewReader(big), func() { r.Freeze() }}
	if err := s.Record(context.Background(), []File{f}); !errors.Is(err, tier.ErrUnavailable) || !strings.Contains(err.Error(), "in time") {
		t.Errorf("got %v", err)
	}
	r.Thaw()
	eventually(t, func() error { _, err := s.Count(context.Background()); return err })
	if n, err := s.Count(context.Background()); n != (Counts{}) || err != nil {
		t.Errorf("got %v, %v", n, err)
	}
}

// hook calls do before the second read.
type hook struct {
	io.ReaderAt
	do func()
}

func (h *hook) ReadAt(b []byte, off int64) (int, error) {
	if off > 0 && h.do != nil {
		h.do()
		h.do = nil
	}
	return h.ReaderAt.ReadAt(b, off)
}

func eventually(t testing.TB, f func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestRestarted has idle connections that the other side has closed: nobody
// sees that, not even who writes.
func TestRestarted(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "secret", redistest.AppendOnly...)
	s := open(t, r, Options{})
	ctx := t.Context()
	for i := range 3 {
		var wg sync.WaitGroup
		for range 5 { // so that some are idle
			wg.Go(func() {
				if _, err := s.All(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		r.Kill()
		r.Restart()
		must(t, s.Record(ctx, []File{file(fmt.Sprint(i), "x", 0)}))
	}
	if got := entries(t, s); len(got) != 3 {
		t.Errorf("got %+v", got)
	}
	r.Kill()
	if _, err := s.All(ctx); !errors.Is(err, tier.ErrUnavailable) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
	r.Restart()
	must(t, s.Record(ctx, []File{file("back", "x", 0)}))
	must(t, s.Close())
	if _, err := s.All(ctx); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestTwoWriters is two machines that edit the same file: one of them is last
// in both, the paths and the log.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "")
	var wg sync.WaitGroup
	for _, who := range []string{"web1", "web2"} {
		s := open(t, r, Options{Client: who})
		wg.Go(func() {
			for n := range 50 {
				if err := s.Record(t.Context(), []File{file("a", fmt.Sprint(who, n), 0)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s := open(t, r, Options{})
	log := entries(t, s)
	c, ok, err := s.Lookup(t.Context(), "a")
	if len(log) != 100 || err != nil || !ok || log[99].MD5 != c.MD5 {
		t.Errorf("%d entries; got %+v, %v", len(log), c, err)
	}
	count := map[string]int{}
	for _, e := range log {
		count[e.Who]++
	}
	equal(t, count, map[string]int{"web1": 50, "web2": 50})
}

func TestManyPaths(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "")
	s := open(t, r, Options{})
	var files []File
	want := map[string]Change{}
	for i := range 3000 {
		f := file(fmt.Sprintf("dir%d/file%d", i%7, i), fmt.Sprint(i), 0o100600)
		files = append(files, f)
		want[f.Path] = f.Change
	}
	must(t, s.Record(t.Context(), files))
	all, err := s.All(t.Context())
	must(t, err)
	equal(t, all, want)
	if got := entries(t, s); len(got) != 3000 || got[2999].Path != files[2999].Path {
		t.Errorf("%d entries", len(got))
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "", redistest.AppendOnly...)
	s := open(t, r, Options{Timeout: time.Second})
	must(t, s.Record(t.Context(), []File{file("before", "x", 0)}))
	at, err := s.End(t.Context())
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	news := make(chan Update, 10_000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Follow(ctx, at, 20*time.Millisecond, func(u Update) { news <- u })
	}()
	defer func() { cancel(); <-done }()
	get := func(ok func(Update) bool) Update {
		t.Helper()
		for {
			select {
			case u := <-news:
				if ok(u) {
					return u
				}
			case <-time.After(patience):
				t.Fatal("nothing came")
			}
		}
	}
	paths := func(n int) (all []string) {
		t.Helper()
		for len(all) < n {
			u := get(func(Update) bool { return true })
			if u.Err != nil || u.Reset {
				t.Fatalf("got %+v", u)
			}
			for _, e := range u.Entries {
				all = append(all, e.Path)
			}
		}
		return all
	}

	must(t, s.Record(t.Context(), []File{file("a", "x", 0), removed("b")}))
	equal(t, paths(2), []string{"a", "b"})
	var many []File
	for i := range 2500 {
		many = append(many, file(fmt.Sprint(i), "x", 0))
	}
	must(t, s.Record(t.Context(), many))
	if got := paths(2500); got[0] != "0" || got[2499] != "2499" {
		t.Errorf("got %q to %q", got[0], got[2499])
	}

	// Cleared, and filled again to more than before.
	must(t, s.Clear(t.Context()))
	must(t, s.Record(t.Context(), append(many, file("new", "y", 0), file("last", "y", 0))))
	get(func(u Update) bool { return u.Reset })
	if got := paths(2502); got[2501] != "last" {
		t.Errorf("got %q", got[2501])
	}
	must(t, s.Clear(t.Context()))
	if u := get(func(Update) bool { return true }); !u.Reset || len(u.Entries) > 0 {
		t.Errorf("got %+v", u)
	}
	must(t, s.Record(t.Context(), []File{file("again", "y", 0)}))
	equal(t, paths(1), []string{"again"})

	// Gone, and back.
	r.Kill()
	get(func(u Update) bool { return errors.Is(u.Err, tier.ErrUnavailable) })
	r.Restart()
	get(func(u Update) bool { return u.Err == nil && !u.Reset })
	must(t, s.Record(t.Context(), []File{file("back", "y", 0)}))
	equal(t, paths(1), []string{"back"})

	at, err = s.End(t.Context())
	must(t, err)
	if found, next, reset, err := s.Since(t.Context(), at); len(found) > 0 || next != at || reset || err != nil {
		t.Errorf("got %+v, %+v, %v, %v", found, next, reset, err)
	}
}

// TestManyCallsWait has more calls at a time than there may be connections: those
// beyond wait for longer than a redis may be silent, and get their answer.
func TestManyCallsWait(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "")
	s := open(t, r, Options{Timeout: time.Second})
	must(t, s.Record(t.Context(), []File{file("a", "x", 0)}))
	for range maxConns {
		s.conns.slots <- struct{}{}
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.All(t.Context())
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(1500 * time.Millisecond):
	}
	<-s.conns.slots
	must(t, <-done)
	limited, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s.conns.slots <- struct{}{}
	if _, err := s.All(limited); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call without a place: %v", err)
	}
}

// TestTooManyPaths has redis tell of more paths than a mount may have changed: that
// is an error before it takes much time or memory.
func TestTooManyPaths(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "")
	s := open(t, r, Options{})
	s.most = 20_000
	r.CLI("EVAL", `for i = 1, ARGV[1] do redis.call("HSET", KEYS[1], i, ",0") end`, "1", "debug:paths:m", fmt.Sprint(10*s.most))
	n := 0
	err := s.Scan(t.Context(), func(_ Change, err error) error {
		n++
		return err
	})
	if !errors.Is(err, ErrFormat) || n > s.most || n < s.most/2 {
		t.Errorf("%d paths, %v", n, err)
	}
}
