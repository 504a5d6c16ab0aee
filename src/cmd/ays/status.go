package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/aysfs/aysfs/src/control"
)

const (
	defaultConfig = "/etc/aysfs/aysfs.toml"
	statusTimeout = 10 * time.Second
)

func showStatus(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	var at socketFlags
	at.add(fs)
	asJSON := fs.Bool("json", false, "print one JSON object")
	if _, code, ok := c.parse(fs, args); !ok {
		return code
	}
	socket, problem := at.path()
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	s, err := control.Fetch(ctx, socket)
	if err != nil {
		return c.fail(errors.Join(err, problem))
	}
	if *asJSON {
		if err := c.printJSON(s); err != nil {
			return c.fail(err)
		}
	} else {
		printStatus(c.stdout, s, time.Now())
	}
	if s.ConfigError != "" {
		return exitWrong
	}
	for _, m := range s.Mounts {
		if m.Error != "" {
			return exitWrong
		}
	}
	return exitOK
}

// printStatus writes s for people.
func printStatus(w io.Writer, s *control.Status, now time.Time) {
	fmt.Fprintf(w, "%s, aysfs %s, process %d, up %v, config %s\n", s.ID, s.Version, s.PID, now.Sub(s.Since).Round(time.Second), s.Config)
	if k := s.Keeper; k != nil {
		fmt.Fprintf(w, "kept by process %d, aysfs %s; restarted %d times after it died, upgraded %d times", k.PID, k.Version, k.Restarts, k.Upgrades)
		if k.Last != "" {
			fmt.Fprintf(w, "; the last: %s, %s", k.Last, k.LastAt.Format(time.RFC3339))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "config in force since %s\n", s.Loaded.Format(time.RFC3339))
	if s.ConfigError != "" {
		fmt.Fprintf(w, "\nTHE CONFIG'S FILE CAN'T BE USED: it changes nothing until it is mended\n  %s\n", strings.ReplaceAll(s.ConfigError, "\n", "\n  "))
	}
	if len(s.NeedRestart) > 0 {
		fmt.Fprintf(w, "\nneeds a restart: %s\n", strings.Join(s.NeedRestart, ", "))
	}
	for _, m := range s.Mounts {
		printMount(w, m)
	}

	fmt.Fprintln(w)
	printCache(w, s.Cache)
	if c := s.Seed; c != nil {
		fmt.Fprintf(w, "seed: %s, %d blobs, %s on disk; %d hits (%s), %d misses", c.Path, c.Blobs, byteSize(c.Disk), c.Hits, byteSize(c.HitBytes), c.Misses)
		if c.Corrupt+c.Damaged > 0 {
			fmt.Fprintf(w, "; DAMAGED: %d blobs, %d files", c.Corrupt, c.Damaged)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	printTiers(w, s.Stores, now)
	printFetching(w, s, now)
	m := s.Memory
	fmt.Fprintf(w, "\nmemory: %s of heap, bound %s; decoded metadata %s; resident %s with mapped cache; %d goroutines; %d of %d descriptors\n",
		byteSize(m.Heap), byteSize(m.Limit), byteSize(m.Metadata), byteSize(m.Resident), m.Routines, s.Files.Open, s.Files.Most)
}

func printMount(w io.Writer, m control.Mount) {
	fmt.Fprintf(w, "\n%s\n", m.Path)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(key, format string, a ...any) { fmt.Fprintf(t, "  %s\t%s\n", key, fmt.Sprintf(format, a...)) }
	row("tree", "%s", treeLine(m))
	switch {
	case m.Error != "" && m.Pending:
		row("NO TREE YET", "the path answers with errors: %s", m.Error)
	case m.Error != "":
		row("NOT MOUNTED", "%s", m.Error)
	default:
		row("serial", "%d, published %s, root %.12s", m.Serial, m.Time.Format(time.RFC3339), m.Root)
		row("content", "%d files, %s", m.Files, byteSize(m.Bytes))
		row("mounted", "since %s; the kernel holds %d inodes", m.Since.Format(time.RFC3339), m.Inodes)
		if m.Moves > 0 {
			row("moved", "%d times, last %s", m.Moves, m.Moved.Format(time.RFC3339))
		}
		if line := profileLine(m.Profile); line != "" {
			row("profile", "%s", line)
		}
		if line := prefetchLine(m); line != "" {
			row("prefetch", "%s", line)
		}
		if d := m.Debug; d != nil {
			row("debug", "%d paths changed, %d being written, %d names on this machine only", d.Changed, d.Unsent, d.Scratch)
			if d.Error != "" {
				row("REDIS AWAY", "%s", d.Error)
			}
		}
		if m.Problem != "" {
			row("NOT THE NEWEST", "%s", m.Problem)
		} else if !m.Fresh {
			row("note", "the store could not be asked: this is the tree as it was known before")
		}
	}
	row("store", "%s, %s", m.Store, m.Source)
	t.Flush()
}

func printTiers(w io.Writer, stores []control.Store, now time.Time) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "tier\tasked\thits\tabsent\terrors\tcorrupt\tbytes\tmean time")
	for _, st := range stores {
		for _, v := range st.Tier.Sources {
			mean := time.Duration(0)
			if v.Requests > 0 {
				mean = v.Latency / time.Duration(v.Requests)
			}
			fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%v\n", v.Tier, v.Requests, v.Hits, v.Absent, v.Errors, v.Corrupt, byteSize(v.Bytes), mean.Round(10*time.Microsecond))
		}
	}
	t.Flush()
	for _, st := range stores {
		for _, v := range st.Tier.Sources {
			if v.LastError != "" {
				fmt.Fprintf(w, "%s, %v ago: %s\n", v.Tier, now.Sub(v.LastErrorAt).Round(time.Second), v.LastError)
			}
		}
	}
}

// profileLine tells of what programs need first.
func profileLine(p *control.Profile) string {
	if p == nil {
		return ""
	}
	var parts []string
	if p.Needs > 0 {
		parts = append(parts, fmt.Sprintf("%d needs from %d runs, of %s, had from %s", p.Needs, p.Runs, p.Time.Format(time.RFC3339), p.From))
	}
	if p.Recording {
		parts = append(parts, fmt.Sprintf("recording, %d needs so far", p.Recorded))
	}
	return strings.Join(parts, "; ")
}

// prefetchLine tells what is brought near ahead of need.
func prefetchLine(m control.Mount) string {
	var parts []string
	for _, v := range []struct {
		name string
		of   *control.Bringing
	}{{"metadata", m.PrefetchMetadata}, {"profile", m.PrefetchProfile}, {"tree", m.PrefetchTree}} {
		b := v.of
		if b == nil {
			continue
		}
		part := fmt.Sprintf("%s %d", v.name, b.Objects)
		if b.OfObjects > 0 {
			part += fmt.Sprintf(" of %d", b.OfObjects)
		}
		part += " objects"
		if b.Bytes > 0 {
			part += ", " + byteSize(b.Bytes)
		}
		if b.OfBytes > 0 {
			part += " of " + byteSize(b.OfBytes)
		}
		if b.Failed > 0 {
			part += fmt.Sprintf(", %d failed", b.Failed)
		}
		switch {
		case b.Waiting != "":
			part += ", waits: " + b.Waiting
		case b.Running:
			part += ", goes on"
		case b.Error != "":
			part += ", ended: " + b.Error
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "; ")
}

func treeLine(m control.Mount) string {
	if m.Remote == "" {
		return m.Tree
	}
	return m.Tree + ", directory " + m.Remote
}

func printCache(w io.Writer, c control.Cache) {
	if c.Path == "" {
		fmt.Fprint(w, "disk cache: none, so there is no prefetch")
	} else {
		fmt.Fprintf(w, "disk cache: %s, %d blobs, %s on disk of at most %s; %d hits (%s), %d misses",
			c.Path, c.Blobs, byteSize(c.Disk), byteSize(c.MaxSize), c.Hits, byteSize(c.HitBytes), c.Misses)
	}
	if c.Dropped+c.Corrupt > 0 {
		fmt.Fprintf(w, "; %d not kept, %d corrupt", c.Dropped, c.Corrupt)
	}
	if c.Bypassed != "" {
		fmt.Fprintf(w, "; BYPASSED: %s", c.Bypassed)
	}
	fmt.Fprintln(w)
}

// mostFetching is how many fetches are listed.
const mostFetching = 10

func printFetching(w io.Writer, s *control.Status, now time.Time) {
	for _, st := range s.Stores {
		f := st.Tier.Fetching
		if len(f) == 0 {
			continue
		}
		fmt.Fprintf(w, "\nfetching from %s: %d\n", st.Name, len(f))
		for _, v := range f[:min(len(f), mostFetching)] {
			fmt.Fprintf(w, "  %s/%s  %v, %d waiting\n", v.Domain, v.Digest.Short(), now.Sub(v.Since).Round(time.Millisecond), v.Waiters)
		}
	}
}
