package main

import (
	"slices"
	"strings"
	"testing"
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

// A result of each kind shows up where it should.
func TestPrint(t *testing.T) {
	add := func(work, when, driver string, values ...float64) (all []sample) {
		for _, v := range values {
			all = append(all, sample{Work: work, When: when, Driver: driver, Seconds: v})
		}
		return all
	}
	r := &results{Samples: slices.Concat(
		add("find", disk, reference, 1, 2, 3),
		add("find", disk, subject, 3, 4, 100),
		add("find", cold, subject, 6),
	)}
	r.Samples = append(r.Samples,
		sample{Work: "tar", When: cold, Driver: "rclone", Seconds: 60, Problem: errTooLong.Error()},
		sample{Work: "tar", When: disk, Driver: "rclone", Problem: "tar: read error"},
	)
	r.Samples[5].Seconds = 4
	r.Samples[5].Client = &usage{RssAnon: 2048}
	r.Samples[6].Net = &netUse{Requests: 7, OneGet: 3}
	r.Samples[6].Net.Down = 2e6
	r.Publish = []published{
		{Program: "aysfs", Copy: 2, First: 3, Stored: 1 << 20, Grown: 1 << 19, Tree: 2 << 20},
		{Program: "peer", Copy: 2, First: 8, Stored: 4 << 20, Tree: 2 << 20},
	}
	r.Skipped = []string{"squashfs: the kernel has none"}
	var out strings.Builder
	r.print(&out)
	for _, want := range [][]string{
		{"find", "cold", "6.00 s", "3.00×"},
		{"find", "disk", "2.00 s", "4.00 s", "2.00×"},
		{"tar", "cold", "> 60.0 s"},
		{"tar", "disk", "failed"},
		{"find", "disk", "aysfs", "2.0", "0.0", "0.0", "0.00"},
		{"find", "cold", "aysfs", "6.00 s", "3.00 s", "2.00×", "7", "0", "2.0", "0.0"},
		{"first", "3.00 s", "1.50×", "8.00 s", "4.00×"},
		{"more with the changed files", "0.5 MiB", "0.25×", "0.0 MiB", "0.00×"},
		{"stored", "1.0 MiB", "0.50×", "4.0 MiB", "2.00×"},
		{"skipped: squashfs: the kernel has none"},
	} {
		text := strings.Join(want, " ")
		if !slices.ContainsFunc(strings.Split(out.String(), "\n"), func(line string) bool {
			return strings.Join(strings.Fields(line), " ") == text
		}) {
			t.Errorf("no line %q in\n%s", text, &out)
		}
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
