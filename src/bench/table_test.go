package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/bench/link"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 9}, 3},
	} {
		before := slices.Clone(c.values)
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v: got %v, want %v", c.values, got, c.want)
		}
		if !slices.Equal(before, c.values) {
			t.Errorf("%v was sorted where it lies", before)
		}
	}
}

func TestFigures(t *testing.T) {
	for s, want := range map[float64]string{
		166.2: "166 s", 13.25: "13.2 s", 1.5: "1.50 s", 0.3: "300 ms", 0.0312: "31.2 ms", 0.00012: "0.12 ms",
	} {
		if got := seconds(s); got != want {
			t.Errorf("%v s: got %q, want %q", s, got, want)
		}
	}
	for _, c := range []struct {
		a, b float64
		want string
	}{{3, 2, "1.50×"}, {30, 2, "15×"}, {1, 0, ""}} {
		if got := ratio(c.a, c.b); got != c.want {
			t.Errorf("ratio of %v and %v: got %q, want %q", c.a, c.b, got, c.want)
		}
	}
}

func TestWriteTable(t *testing.T) {
	var got strings.Builder
	writeTable(&got, [][]string{
		{"work", "native", "aysfs"},
		{"rand1", "1.00 s", "12.0 s 12×"},
		{"ls", "", "failed"},
	})
	const want = `work   native       aysfs
rand1  1.00 s  12.0 s 12×
ls                 failed
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &got, want)
	}
}

// someResults have one of each kind.
func someResults() *results {
	add := func(work, when, driver string, values ...float64) (all []sample) {
		for _, v := range values {
			all = append(all, sample{Work: work, When: when, Driver: driver, Seconds: v})
		}
		return all
	}
	r := &results{Link: linkInfo{RoundTripMS: 10, Mbits: 1000}, Samples: slices.Concat(
		add("find", disk, reference, 1, 2, 3),
		add("find", disk, subject, 3, 4, 100),
		add("find", cold, subject, 6),
		add("python", disk, reference, 0.2),
		add("python", cold, subject, 2),
		add("python", cold, profiled, 0.5),
		add("python", cold, "desync", 5),
		add("python", cold, "squashfs", 3),
		add("rand8", disk, reference, 0.1),
		add("rand8", disk, subject, 0.4),
	)}
	r.Samples = append(r.Samples,
		sample{Work: "tar", When: cold, Driver: "rclone", Seconds: 60, Problem: errTooLong.Error()},
		sample{Work: "tar", When: disk, Driver: "rclone", Problem: "tar: read error"},
		sample{Work: "tar", When: cold, Driver: subject, Seconds: 6, Mount: 0.1, Client: &usage{RssAnon: 2048, VmHWM: 200 << 10},
			Net: &netUse{Requests: 7, OneGet: 3, Traffic: link.Traffic{Down: 2e6}}},
	)
	for i := range r.Samples {
		if r.Samples[i].Driver == profiled {
			r.Samples[i].Net = &netUse{Traffic: link.Traffic{Down: 12.5e6}}
		}
	}
	r.Publish = []published{
		{Program: "aysfs", Copy: 2, First: 3, Unchanged: 1, Stored: 1 << 20, Grown: 1 << 19, Tree: 2 << 20},
		{Program: "restic", Copy: 2, First: 8, Unchanged: 0.5, Stored: 4 << 20, Tree: 2 << 20},
	}
	r.Demand = []waited{
		{Beside: "nothing", Seconds: []float64{0.01, 0.012}},
		{Beside: "nothing", Seconds: []float64{0.014}},
		{Beside: "a profile", Seconds: []float64{0.01, 0.015}, Down: 3e6},
		{Beside: "the whole tree", Seconds: []float64{0.015}, Down: 1e6},
	}
	r.Skipped = []string{"squashfuse: is not installed"}
	return r
}

// lines are those of a text, with one space between the words.
func lines(text string) (all []string) {
	for line := range strings.Lines(text) {
		all = append(all, strings.Join(strings.Fields(line), " "))
	}
	return all
}

// A result of each kind shows up where it should.
func TestPrint(t *testing.T) {
	var out strings.Builder
	someResults().print(&out)
	for _, want := range []string{
		"find tar python",
		"aysfs 6.00 s 3.00× 6.00 s 2.00 s 10×",
		"rclone > 60.0 s",
		"native 2.00 s 200 ms 100 ms",
		"aysfs 4.00 s 2.00× 400 ms 4.00×",
		"rclone failed",
		"tar aysfs 2.0 2.0 0.0 200.0 0.00",
		"tar aysfs 100 ms 6.00 s 3.00 s 2.00× 7 0 2.0 0.0",
		"first 3.00 s 1.50× 8.00 s 4.00×",
		"more with the changed files 0.5 MiB 0.25× 0.0 MiB 0.00×",
		"stored 1.0 MiB 0.50× 4.0 MiB 2.00×",
		"nothing 3 12.0 ms 12.0 ms 14.0 ms 0.0",
		"a profile 2 12.5 ms 1.04× 12.5 ms 15.0 ms 3.0",
		"skipped: squashfuse: is not installed",
	} {
		if !slices.Contains(lines(out.String()), want) {
			t.Errorf("no line %q in\n%s", want, &out)
		}
	}
}

func TestGoals(t *testing.T) {
	rows, note := someResults().goals()
	for _, want := range [][]string{
		{"find, disk", "≤ 1.50× native", "2.00×, 4.00 s, of 2.00 s", "missed"},
		{"rand8, disk", "≥ 0.50× the rate of native", "0.25×, 2500 reads/s, of 10000", "missed"},
		{"python, cold, profile known", "≤ 1.50× (its bytes over the link + 4 round trips + native, disk)",
			"1.47×, 500 ms, of 340 ms = 100 ms for 12.5 MB + 40.0 ms + 200 ms", "met"},
		{"python, cold, no profile", "≤ 0.50× the best peer that fetches what is read", "0.40×, 2.00 s, of 5.00 s (desync)", "met"},
		{"python, cold, no profile", "≤ 0.50× the best peer that fetches all first", "0.67×, 2.00 s, of 3.00 s (squashfs)", "missed"},
		{"tar, cold", "≤ 1.30× curl of as many bytes in one file", "2.00×, 6.00 s, of 3.00 s", "missed"},
		{"a read while a profile is fetched ahead", "≤ 1.05× without", "1.04×, 12.5 ms, of 12.0 ms, the means; p99 of 2 reads 15.0 ms", "met"},
		{"a read while the whole tree is fetched ahead", "≤ 1.05× without", "1.25×, 15.0 ms, of 12.0 ms, the means; p99 of 1 reads 15.0 ms", "missed"},
		{"resident memory after any work", "≤ 96 MiB", "2.0 MiB (tar, cold)", "met"},
		{"resident memory at its peak", "≤ 96 MiB", "200.0 MiB (tar, cold)", "missed"},
		{"publish the Go tree", "faster than restic and desync", "3.00 s, of 8.00 s (restic)", "met"},
		{"again, unchanged", "faster than restic and desync", "1.00 s, of 500 ms (restic)", "missed"},
	} {
		if !slices.ContainsFunc(rows, func(row []string) bool { return slices.Equal(row, want) }) {
			t.Errorf("no goal %q in %q", want, rows)
		}
	}
	if want := "Not measured: tar, page; find, page; grep, page; build, page; rand1, page; rand8, page; tar, disk; python, disk; " +
		"rand1, disk; big, cold; a read while guesses are fetched ahead; the same, of a walk of very many files; again, 0 files changed."; note != want {
		t.Errorf("got note %q, want %q", note, want)
	}
	failed := &results{Samples: []sample{{Work: "tar", When: page, Driver: subject, Problem: "tar: read error"}}}
	rows, _ = failed.goals()
	if got := rows[1]; !slices.Equal(got, []string{"tar, page", "≤ 1.05× native", "failed", "missed"}) {
		t.Errorf("what failed is %q", got)
	}
}

// Where the subject took turns with the native file system, what counts is how they
// compare in each turn.
func TestPairs(t *testing.T) {
	r := &results{Samples: []sample{{Work: "tar", When: page, Driver: reference, Seconds: 9}}}
	for _, s := range [][2]float64{{1, 1}, {6, 5}, {2, 1}, {1.04, 1}, {5.15, 5}} {
		r.Samples = append(r.Samples, sample{Work: "tar", When: page, Driver: subject, Seconds: s[0], Native: s[1]})
	}
	rows, _ := r.goals()
	if got, want := rows[1], []string{"tar, page", "≤ 1.05× native", "1.04×, 2.00 s, of 1.00 s; half of 5 pairs 1.03 to 1.20×", "met"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := r.time("tar", page, subject), "2.00 s 1.04×"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// All rows of a table in Markdown have as many cells as its head.
func TestMarkdown(t *testing.T) {
	var out strings.Builder
	someResults().markdown(&out)
	cells := 0
	for line := range strings.Lines(out.String()) {
		switch n := strings.Count(line, "|"); {
		case n == 0 || cells == 0:
			cells = n
		case n != cells:
			t.Errorf("a row of %d cells after some of %d: %s", n, cells, line)
		}
	}
	if want := "| | find | tar | python |"; !slices.Contains(lines(out.String()), want) {
		t.Errorf("no line %q in\n%s", want, &out)
	}
}

// The chart is XML, and has everything that was measured cold.
func TestChart(t *testing.T) {
	for name, r := range map[string]*results{"some": someResults(), "none": {}} {
		var out bytes.Buffer
		r.chart(&out)
		d := xml.NewDecoder(&out)
		var text []string
		for {
			token, err := d.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if s, ok := token.(xml.CharData); ok {
				text = append(text, string(s))
			}
		}
		if name == "none" {
			continue
		}
		for _, want := range []string{"local disk", "aysfs-profile", "500 ms", "2.00 s", "rclone", "> 60.0 s", "desync"} {
			if !slices.Contains(text, want) {
				t.Errorf("no %q in %q", want, text)
			}
		}
	}
}

// What was written is shown again.
func TestKeep(t *testing.T) {
	dir := t.TempDir()
	r := someResults()
	r.Time = time.Now()
	if err := r.keep(dir); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "bench-*.json"))
	if len(files) != 1 {
		t.Fatalf("written: %q", files)
	}
	again, err := readResults(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var was, is strings.Builder
	r.markdown(&was)
	again.markdown(&is)
	if was.String() != is.String() {
		t.Errorf("got\n%s\nwant\n%s", &is, &was)
	}
	if _, err := readResults(filepath.Join(dir, "chart.svg")); err == nil {
		t.Error("a chart was read as results")
	}
}

func TestVersionLine(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"sshfs", "fusermount3 version: 3.14.0\nSSHFS version 3.7.3\n", "SSHFS version 3.7.3"},
		{"go", "usage\ngo version go1.26\n", "go version go1.26"},
		{"nginx", "server 1.22\n", "server 1.22"},
		{"x", "none", ""},
	} {
		if got := versionLine(c.name, c.text); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	if got := moduleVersion([]byte("x: go1.26\n\tpath\ta/b\n\tmod\ta\tv1.0.0\th1:x=\n")); got != "v1.0.0" {
		t.Errorf("got module version %q", got)
	}
}

func TestReadFlags(t *testing.T) {
	o, err := readFlags([]string{"-quick", "-works", "find,tar", "-runs", "0"})
	if err != nil {
		t.Fatal(err)
	}
	if o.runs != 1 || !slices.Equal(o.works, []string{"find", "tar"}) || !slices.Equal(o.drivers, quickDrivers) || !slices.Equal(o.when, conditions) {
		t.Errorf("got %+v", o)
	}
	for _, args := range [][]string{{"-works", "find,fnord"}, {"-drivers", "ext5"}, {"-when", "now"}, {"more"}} {
		if _, err := readFlags(args); err == nil {
			t.Errorf("%q: accepted", args)
		}
	}
	if !slices.Contains(driverNames(), reference) || !slices.Contains(driverNames(), subject) {
		t.Error("a driver has another name than the tables think")
	}
}

func TestParseProc(t *testing.T) {
	u := parseStatus([]byte("Name:\taysfs\nVmHWM:\t   14300 kB\nRssAnon:\t    5600 kB\nRssFile:\t    8400 kB\n"))
	if want := (usage{RssAnon: 5600, RssFile: 8400, VmHWM: 14300}); u != want {
		t.Errorf("got %+v, want %+v", u, want)
	}
	if got := parseStat([]byte("7 (a (b) c) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0")); got != 2 {
		t.Errorf("got %v s, want 2", got)
	}
}
