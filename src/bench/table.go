package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// print shows the medians.
func (r *results) print(w io.Writer) {
	fmt.Fprintf(w, "\n%d × %s, Linux %s, %s, load %s before and %s after\n", r.Machine.CPUs, r.Machine.Model, r.Machine.Kernel,
		r.Machine.FS, firstWord(r.Machine.LoadBefore), firstWord(r.Machine.LoadAfter))
	fmt.Fprintf(w, "%s\nlink: %.0f ms round trip, %.0f Mbit/s, %s\n", r.Versions["aysfs"], r.Link.RoundTripMS, r.Link.Mbits, r.Link.Protocol)
	for _, t := range []struct {
		title string
		rows  [][]string
	}{
		{"Seconds, and times what " + reference + " takes (cold: times its disk)", r.times()},
		{"Over the link, mount included; one GET is a single download of as many bytes", r.network()},
		{"The client after the work: memory in MiB, processor seconds since it started", r.clients()},
		{"A walk of very many files, cold: what the client has in memory", r.many()},
		{"Hot blobs from a server on this machine, over connections that stay; times nginx, which has them on disk", r.serving()},
		{"Publishing the Go tree, and times a copy of it", r.publishing()},
	} {
		if len(t.rows) > 1 {
			fmt.Fprintf(w, "\n%s\n\n", t.title)
			writeTable(w, t.rows)
		}
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(w, "\nskipped: %s", firstLine(s))
	}
	if len(r.Skipped) > 0 {
		fmt.Fprintln(w)
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

// place is where a row of a table comes from.
type place struct{ when, driver string }

// placesSeen are all conditions of all drivers.
func (r *results) placesSeen() (all []place) {
	for _, when := range conditions {
		for _, d := range r.driversSeen() {
			all = append(all, place{when, d})
		}
	}
	return all
}

func (r *results) times() [][]string {
	drivers := r.driversSeen()
	rows := [][]string{append([]string{"work", "when"}, drivers...)}
	for _, work := range r.worksSeen() {
		for _, when := range conditions {
			row := []string{work, when}
			any := false
			for _, d := range drivers {
				text := r.time(work, when, d)
				any = any || text != ""
				row = append(row, text)
			}
			if any {
				rows = append(rows, row)
			}
		}
	}
	return rows
}

// time is one cell: the median, and how it compares with the reference.
func (r *results) time(work, when, driver string) string {
	samples := r.of(work, when, driver)
	if len(samples) == 0 {
		return ""
	}
	for _, s := range samples {
		switch {
		case s.Problem == "":
		case s.Problem == errTooLong.Error():
			return "> " + seconds(s.Seconds)
		default:
			return "failed"
		}
	}
	took := medianOf(samples, func(s sample) float64 { return s.Seconds })
	if driver == reference {
		return seconds(took)
	}
	if when == cold {
		when = disk
	}
	return seconds(took) + " " + ratio(took, medianOf(r.of(work, when, reference), func(s sample) float64 { return s.Seconds }))
}

func (r *results) network() [][]string {
	rows := [][]string{{"work", "when", "driver", "time", "one GET", "", "requests", "connections", "MB down", "MB up"}}
	for _, work := range r.worksSeen() {
		for _, at := range r.placesSeen() {
			s := r.of(work, at.when, at.driver)
			if len(s) == 0 || s[0].Net == nil || s[0].Problem != "" {
				continue
			}
			took := medianOf(s, func(s sample) float64 { return s.Seconds })
			oneGet, times := "", ""
			if get := medianOf(s, func(s sample) float64 { return s.Net.OneGet }); get > 0 {
				oneGet, times = seconds(get), ratio(took, get)
			}
			rows = append(rows, []string{work, at.when, at.driver, seconds(took), oneGet, times,
				fmt.Sprintf("%.0f", medianOf(s, func(s sample) float64 { return float64(s.Net.Requests) })),
				fmt.Sprintf("%.0f", medianOf(s, func(s sample) float64 { return float64(s.Net.Connections) })),
				fmt.Sprintf("%.1f", medianOf(s, func(s sample) float64 { return float64(s.Net.Down) })/1e6),
				fmt.Sprintf("%.1f", medianOf(s, func(s sample) float64 { return float64(s.Net.Up) })/1e6)})
		}
	}
	return rows
}

func (r *results) clients() [][]string {
	rows := [][]string{{"work", "when", "driver", "RssAnon", "RssFile", "VmHWM", "CPU s"}}
	for _, work := range r.worksSeen() {
		for _, at := range r.placesSeen() {
			s := slices.DeleteFunc(r.of(work, at.when, at.driver), func(s sample) bool { return s.Client == nil })
			if len(s) == 0 {
				continue
			}
			mib := func(get func(*usage) int64) string {
				return fmt.Sprintf("%.1f", medianOf(s, func(s sample) float64 { return float64(get(s.Client)) })/1024)
			}
			rows = append(rows, []string{work, at.when, at.driver,
				mib(func(u *usage) int64 { return u.RssAnon }), mib(func(u *usage) int64 { return u.RssFile }), mib(func(u *usage) int64 { return u.VmHWM }),
				fmt.Sprintf("%.2f", medianOf(s, func(s sample) float64 { return s.Client.CPU }))})
		}
	}
	return rows
}

// serving has a row for each server, work and number of clients.
func (r *results) serving() [][]string {
	rows := [][]string{{"work", "clients", "server", "requests/s", "", "MB/s", "p50", "p99", "MiB"}}
	for _, w := range serveWorks {
		for _, clients := range serveClients {
			of := func(server string, get func(served) float64) float64 {
				var values []float64
				for _, s := range r.Served {
					if s.Work == w.name && s.Clients == clients && s.Server == server {
						values = append(values, get(s))
					}
				}
				return median(values)
			}
			rate := func(s served) float64 { return s.Rate }
			for _, server := range []string{"nginx", "ays_cache"} {
				n := of(server, rate)
				if n == 0 {
					continue
				}
				rows = append(rows, []string{
					w.name, fmt.Sprint(clients), server, fmt.Sprintf("%.0f", n), ratio(n, of("nginx", rate)),
					fmt.Sprintf("%.1f", of(server, func(s served) float64 { return s.Bytes })/1e6),
					seconds(of(server, func(s served) float64 { return s.P50 })), seconds(of(server, func(s served) float64 { return s.P99 })),
					fmt.Sprintf("%.0f", of(server, func(s served) float64 { return float64(s.Memory) })/1024),
				})
			}
		}
	}
	return rows
}

// publishing has a row for each step and two columns for each program: what it
// took, and how many times what a copy took. Sizes are next to the tree's own.
func (r *results) publishing() [][]string {
	if len(r.Publish) == 0 {
		return nil
	}
	var programs []string
	for _, p := range r.Publish {
		if !slices.Contains(programs, p.Program) {
			programs = append(programs, p.Program)
		}
	}
	of := func(program string, get func(published) float64) float64 {
		var values []float64
		for _, p := range r.Publish {
			if p.Program == program {
				values = append(values, get(p))
			}
		}
		return median(values)
	}
	head := []string{""}
	for _, program := range programs {
		head = append(head, program, "")
	}
	rows := [][]string{head}
	for _, s := range []struct {
		name string
		took func(published) float64
	}{
		{"copy", func(p published) float64 { return p.Copy }},
		{"first", func(p published) float64 { return p.First }},
		{"unchanged", func(p published) float64 { return p.Unchanged }},
		{fmt.Sprintf("%d files changed", r.Publish[0].Files), func(p published) float64 { return p.Changed }},
	} {
		row := []string{s.name}
		for _, program := range programs {
			took := of(program, s.took)
			row = append(row, seconds(took), ratio(took, of(program, func(p published) float64 { return p.Copy })))
		}
		rows = append(rows, row)
	}
	for _, s := range []struct {
		name  string
		bytes func(published) int64
	}{
		{"stored", func(p published) int64 { return p.Stored }},
		{"more with the changed files", func(p published) int64 { return p.Grown }},
	} {
		row := []string{s.name}
		for _, program := range programs {
			n := of(program, func(p published) float64 { return float64(s.bytes(p)) })
			row = append(row, mib(int64(n)), ratio(n, of(program, func(p published) float64 { return float64(p.Tree) })))
		}
		rows = append(rows, row)
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

// writeTable writes rows in columns: words to the left, all that has figures to
// the right. The first row is the head.
func writeTable(w io.Writer, rows [][]string) {
	var widths []int
	var words []bool
	for i, row := range rows {
		for k, cell := range row {
			if k == len(widths) {
				widths, words = append(widths, 0), append(words, true)
			}
			widths[k] = max(widths[k], utf8.RuneCountInString(cell))
			words[k] = words[k] && (i == 0 || !strings.ContainsAny(cell, "0123456789") || k == 0)
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for k, cell := range row {
			pad := strings.Repeat(" ", widths[k]-utf8.RuneCountInString(cell))
			if words[k] {
				line.WriteString(cell + pad + "  ")
			} else {
				line.WriteString(pad + cell + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

func firstWord(s string) string {
	w, _, _ := strings.Cut(s, " ")
	return w
}
