package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// section is a table and what it shows.
type section struct {
	title string
	rows  [][]string // the first is the head
	note  string     // below it
	long  bool       // for who wants to know it exactly
}

// sections are all tables that have something to show.
func (r *results) sections() (all []section) {
	goals, open := r.goals()
	for _, s := range []section{
		{title: "What it is to cost, and what it does", rows: goals, note: open},
		{title: "Cold: an empty cache, times what " + reference + " takes with the kernel's caches dropped. Who fetches a whole image first has that counted", rows: r.times(cold)},
		{title: "Disk-warm: the kernel's caches dropped, times " + reference + " with the same", rows: r.times(disk)},
		{title: "Page-warm: everything in the kernel's caches, times " + reference, rows: r.times(page)},
		{title: "Over the link, cold, from the mount to the end of the work; curl is one download of as many bytes as the tree has", rows: r.network(), long: true},
		{title: "Resident memory of what serves the mount, MiB, cold: after the work, and at its peak; processor seconds since it started", rows: r.clients(), long: true},
		{title: "Cold reads of small files, now and then, beside what is fetched ahead for another mount; times those without", rows: r.demand()},
		{title: "Every file read, cold, on machines of one site, whose ays_cache is at their end of the link; times that without", rows: r.sites()},
		{title: "A walk of very many files, cold: what the client has in memory", rows: r.many()},
		{title: "Hot blobs from a server on this machine, over connections that stay; times nginx, which has them on disk", rows: r.serving()},
		{title: "Publishing the Go tree, and times a copy of it", rows: r.publishing()},
	} {
		if len(s.rows) > 1 {
			all = append(all, s)
		}
	}
	return all
}

// about says what was measured on.
func (r *results) about() []string {
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		v := r.Versions[name]
		if !strings.Contains(strings.ToLower(v), name) {
			v = name + " " + v
		}
		versions = append(versions, v)
	}
	var trees []string
	for _, name := range slices.Sorted(maps.Keys(r.Trees)) {
		t := r.Trees[name]
		trees = append(trees, fmt.Sprintf("%s has %d files, %.0f MB", name, t.Files, float64(t.Bytes)/1e6))
	}
	runs := 0
	for _, s := range r.Samples {
		runs = max(runs, s.Run)
	}
	idle := ""
	if r.Machine.HaltPoll == "0" {
		idle = ", its processors asleep as soon as they are idle"
	}
	return []string{
		fmt.Sprintf("%d × %s%s, Linux %s, %s; load %s before and %s after; %.1f minutes", r.Machine.CPUs, r.Machine.Model, idle, r.Machine.Kernel,
			r.Machine.FS, firstWord(r.Machine.LoadBefore), firstWord(r.Machine.LoadAfter), r.Seconds/60),
		fmt.Sprintf("Link: %.0f ms round trip, %.0f Mbit/s, %s; medians of up to %d runs", r.Link.RoundTripMS, r.Link.Mbits, r.Link.Protocol, runs),
		"Trees: " + strings.Join(trees, "; "),
		strings.Join(versions, "; "),
	}
}

// print shows everything to who waits for it.
func (r *results) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n", strings.Join(r.about(), "\n"))
	for _, s := range r.sections() {
		fmt.Fprintf(w, "\n%s\n\n", s.title)
		writeTable(w, s.rows)
		if s.note != "" {
			fmt.Fprintf(w, "\n%s\n", s.note)
		}
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(w, "\nskipped: %s", firstLine(s))
	}
	if len(r.Skipped) > 0 {
		fmt.Fprintln(w)
	}
}

// markdown writes the same for a README.
func (r *results) markdown(w io.Writer) {
	for _, s := range r.sections() {
		if s.long {
			fmt.Fprintf(w, "<details><summary>%s</summary>\n\n", s.title)
		} else {
			fmt.Fprintf(w, "%s:\n\n", s.title)
		}
		for i, row := range s.rows {
			for len(row) < len(s.rows[0]) {
				row = append(row, "")
			}
			fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				fmt.Fprintf(w, "|%s\n", strings.Repeat(" --- |", len(row)))
			}
		}
		fmt.Fprintln(w)
		if s.note != "" {
			fmt.Fprintf(w, "%s\n\n", s.note)
		}
		if s.long {
			fmt.Fprint(w, "</details>\n\n")
		}
	}
	for _, line := range r.about() {
		fmt.Fprintf(w, "%s.\n", line)
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(w, "Skipped: %s.\n", firstLine(s))
	}
}

// seen lists, in their usual order, those names that get finds in samples.
func (r *results) seen(names []string, get func(sample) string) (found []string) {
	for _, n := range names {
		if slices.ContainsFunc(r.Samples, func(s sample) bool { return get(s) == n }) {
			found = append(found, n)
		}
	}
	return found
}

func (r *results) worksSeen() []string {
	return r.seen(workNames(), func(s sample) string { return s.Work })
}
func (r *results) driversSeen() []string {
	return r.seen(driverNames(), func(s sample) string { return s.Driver })
}

// times has a row for each driver and a column for each work.
func (r *results) times(when string) [][]string {
	var names []string
	for _, work := range r.worksSeen() {
		if slices.ContainsFunc(r.Samples, func(s sample) bool { return s.Work == work && s.When == when }) {
			names = append(names, work)
		}
	}
	rows := [][]string{append([]string{""}, names...)}
	if len(names) == 0 {
		return rows
	}
	for _, d := range r.driversSeen() {
		row := []string{d}
		any := false
		for _, work := range names {
			text := r.time(work, when, d)
			any = any || text != ""
			row = append(row, text)
		}
		if any {
			rows = append(rows, row)
		}
	}
	return rows
}

// took is the median time of a work; why says that there is none, empty if none
// was to be measured.
func (r *results) took(work, when, driver string) (median float64, why string) {
	samples := r.of(work, when, driver)
	for _, s := range samples {
		switch {
		case s.Problem == "":
		case s.Problem == errTooLong.Error():
			return 0, "> " + seconds(s.Seconds)
		default:
			return 0, "failed"
		}
	}
	return medianOf(samples, func(s sample) float64 { return s.Seconds }), ""
}

// pairs is, sorted, how many times as long a driver took as the reference right before,
// where they took turns: what disturbs the machine for longer than both take disturbs both.
func (r *results) pairs(work, when, driver string) (ratios []float64) {
	for _, s := range r.of(work, when, driver) {
		if s.Native > 0 {
			ratios = append(ratios, s.Seconds/s.Native)
		}
	}
	slices.Sort(ratios)
	return ratios
}

// native is the median time of the reference for a work: of those times when it took
// turns with the driver, if it did.
func (r *results) native(work, when, driver string) float64 {
	turns := slices.DeleteFunc(r.of(work, when, driver), func(s sample) bool { return s.Native == 0 })
	if len(turns) > 0 {
		return medianOf(turns, func(s sample) float64 { return s.Native })
	}
	took, _ := r.took(work, when, reference)
	return took
}

// time is one cell: the median, and how it compares with the reference.
func (r *results) time(work, when, driver string) string {
	took, why := r.took(work, when, driver)
	if took == 0 {
		return why
	}
	if driver == reference {
		return seconds(took)
	}
	if when == cold {
		when = disk
	}
	if pairs := r.pairs(work, when, driver); len(pairs) > 0 {
		return seconds(took) + " " + ratio(median(pairs), 1)
	}
	return strings.TrimSpace(seconds(took) + " " + ratio(took, r.native(work, when, driver)))
}

// network has a row for each driver and work, cold.
func (r *results) network() [][]string {
	rows := [][]string{{"work", "driver", "mount", "time", "curl", "", "requests", "connections", "MB down", "MB up"}}
	for _, work := range r.worksSeen() {
		for _, d := range r.driversSeen() {
			s := slices.DeleteFunc(r.of(work, cold, d), func(s sample) bool { return s.Net == nil || s.Problem != "" })
			if len(s) == 0 {
				continue
			}
			took := medianOf(s, func(s sample) float64 { return s.Seconds })
			oneGet, times := "", ""
			if get := medianOf(s, func(s sample) float64 { return s.Net.OneGet }); get > 0 {
				oneGet, times = seconds(get), ratio(took, get)
			}
			count := func(get func(*netUse) int64) string {
				return fmt.Sprintf("%.0f", medianOf(s, func(s sample) float64 { return float64(get(s.Net)) }))
			}
			requests := "" // of no server of ours
			if s[0].Net.Requests > 0 {
				requests = count(func(n *netUse) int64 { return n.Requests })
			}
			rows = append(rows, []string{work, d, seconds(medianOf(s, func(s sample) float64 { return s.Mount })), seconds(took), oneGet, times,
				requests, count(func(n *netUse) int64 { return n.Connections }),
				fmt.Sprintf("%.1f", medianOf(s, func(s sample) float64 { return float64(s.Net.Down) })/1e6),
				fmt.Sprintf("%.1f", medianOf(s, func(s sample) float64 { return float64(s.Net.Up) })/1e6)})
		}
	}
	return rows
}

// clients has a row for each driver and work, cold.
func (r *results) clients() [][]string {
	rows := [][]string{{"work", "driver", "VmRSS", "RssAnon", "RssFile", "VmHWM", "CPU s"}}
	for _, work := range r.worksSeen() {
		for _, d := range r.driversSeen() {
			s := slices.DeleteFunc(r.of(work, cold, d), func(s sample) bool { return s.Client == nil })
			if len(s) == 0 {
				continue
			}
			row := []string{work, d}
			for _, get := range []func(*usage) int64{
				func(u *usage) int64 { return u.rss() }, func(u *usage) int64 { return u.RssAnon },
				func(u *usage) int64 { return u.RssFile }, func(u *usage) int64 { return u.VmHWM },
			} {
				row = append(row, fmt.Sprintf("%.1f", medianOf(s, func(s sample) float64 { return float64(get(s.Client)) })/1024))
			}
			rows = append(rows, append(row, fmt.Sprintf("%.2f", medianOf(s, func(s sample) float64 { return s.Client.CPU }))))
		}
	}
	return rows
}

// seconds writes a time with three digits that count.
func seconds(s float64) string {
	switch {
	case s >= 100:
		return fmt.Sprintf("%.0f s", s)
	case s >= 10:
		return fmt.Sprintf("%.1f s", s)
	case s >= 1:
		return fmt.Sprintf("%.2f s", s)
	case s >= 0.1:
		return fmt.Sprintf("%.0f ms", s*1e3)
	case s >= 0.01:
		return fmt.Sprintf("%.1f ms", s*1e3)
	}
	return fmt.Sprintf("%.2f ms", s*1e3)
}

// ratio says how many times b is a; nothing where there is no b.
func ratio(a, b float64) string {
	switch {
	case b <= 0:
		return ""
	case a/b >= 10:
		return fmt.Sprintf("%.0f×", a/b)
	}
	return fmt.Sprintf("%.2f×", a/b)
}

// writeTable writes rows in columns: words to the left, figures to the right. The
// first row is the head.
func writeTable(w io.Writer, rows [][]string) {
	var widths []int
	var figures, sentences []bool
	for i, row := range rows {
		for k, cell := range row {
			if k == len(widths) {
				widths, figures, sentences = append(widths, 0), append(figures, false), append(sentences, false)
			}
			widths[k] = max(widths[k], utf8.RuneCountInString(cell))
			figures[k] = figures[k] || i > 0 && strings.ContainsAny(cell, "0123456789")
			sentences[k] = sentences[k] || k == 0 || i > 0 && len(strings.Fields(cell)) > 4
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for k, cell := range row {
			pad := strings.Repeat(" ", widths[k]-utf8.RuneCountInString(cell))
			if figures[k] && !sentences[k] {
				line.WriteString(pad + cell + "  ")
			} else {
				line.WriteString(cell + pad + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

func firstWord(s string) string {
	w, _, _ := strings.Cut(s, " ")
	return w
}
