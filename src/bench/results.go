package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// results is all that was measured, as it is written.
type results struct {
	Time     time.Time         `json:"time"`
	Machine  machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
	Args     []string          `json:"args"`
	Link     linkInfo          `json:"link"`
	Trees    map[string]*tree  `json:"trees"`
	Samples  []sample          `json:"samples"`
	Publish  []published       `json:"publish"`
	Served   []served          `json:"served"`
	Many     []walked          `json:"many"`
	Demand   []waited          `json:"demand"`
	Sites    []reached         `json:"sites"`
	Skipped  []string          `json:"skipped"`
	Seconds  float64           `json:"seconds"` // that the whole run took
}

type linkInfo struct {
	RoundTripMS float64 `json:"round_trip_ms"`
	Mbits       float64 `json:"mbits"`
	Protocol    string  `json:"protocol"`
}

// machine is what the figures depend on.
type machine struct {
	CPUs       int    `json:"cpus"`
	Model      string `json:"model"`
	Kernel     string `json:"kernel"`
	Arch       string `json:"arch"`
	Memory     int64  `json:"memory_bytes"`
	FS         string `json:"native_fs"`
	HaltPoll   string `json:"guest_halt_poll_ns,omitempty"` // of a virtual machine: 0 makes every wake-up dear
	LoadBefore string `json:"load_before"`                  // others at work make noise of the figures
	LoadAfter  string `json:"load_after"`
}

func newResults(ctx context.Context, o *options, s *site) *results {
	r := &results{
		Time: time.Now(), Args: os.Args[1:], Trees: make(map[string]*tree), Versions: make(map[string]string),
		Link:    linkInfo{float64(o.link.RoundTrip) / 1e6, o.link.Mbits, "HTTP/1.1"},
		Machine: machine{CPUs: runtime.NumCPU(), Arch: runtime.GOARCH, Memory: memory("MemTotal"), LoadBefore: loadAverage()},
	}
	if o.tls {
		r.Link.Protocol = "HTTPS"
	}
	var uts unix.Utsname
	unix.Uname(&uts)
	r.Machine.Kernel = unix.ByteSliceToString(uts.Release[:])
	r.Machine.Model = field("/proc/cpuinfo", "model name")
	if ns, err := os.ReadFile("/sys/module/haltpoll/parameters/guest_halt_poll_ns"); err == nil {
		r.Machine.HaltPoll = strings.TrimSpace(string(ns))
	}
	if out, err := output(ctx, 10*time.Second, "df", "--output=fstype", s.dir); err == nil {
		_, fs, _ := strings.Cut(string(out), "\n") // after the head
		r.Machine.FS = strings.TrimSpace(fs)
	}
	nginx, _ := findNginx()
	for name, call := range map[string][]string{
		"aysfs": {filepath.Join(s.bin, "aysfs"), "-version"}, "nginx": {nginx, "-v"}, "go": {"go", "version"},
		"python": {"python3", "--version"}, "squashfuse": {"squashfuse_ll", "--version"},
		"mksquashfs": {"mksquashfs", "-version"}, "rclone": {"rclone", "version"},
		"restic": {"restic", "version"}, "sshfs": {"sshfs", "--version"}, "sshd": {findSSHD(), "-V"},
		"curl": {"curl", "--version"},
	} {
		if v, _, _ := strings.Cut(version(ctx, name, call), " ("); v != "" {
			r.Versions[name] = v
		}
	}
	if path, err := exec.LookPath("desync"); err == nil {
		// It does not tell its version.
		if out, err := output(ctx, 10*time.Second, "go", "version", "-m", path); err == nil {
			r.Versions["desync"] = moduleVersion(out)
		}
	}
	return r
}

// version is the line in which a program tells its version.
func version(ctx context.Context, name string, call []string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// Some say it on stderr, or call it a failure.
	out, _ := exec.CommandContext(ctx, call[0], call[1:]...).CombinedOutput()
	return versionLine(name, string(out))
}

// versionLine is the first line that has a figure, if need be without the name.
func versionLine(name, text string) (found string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.ContainsAny(line, "0123456789"):
		case strings.Contains(strings.ToLower(line), name):
			return line
		case found == "":
			found = line
		}
	}
	return found
}

// moduleVersion finds the main module's in what go version -m prints.
func moduleVersion(b []byte) string {
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "mod" {
			return f[2]
		}
	}
	return ""
}

func (r *results) empty() bool {
	return len(r.Samples) == 0 && len(r.Publish) == 0 && len(r.Many) == 0 && len(r.Demand) == 0 && len(r.Sites) == 0 && len(r.Served) == 0
}

// keep prints the results, and writes them to a directory in all forms.
func (r *results) keep(dir string) error {
	r.print(os.Stdout)
	file := filepath.Join(dir, "bench-"+r.Time.Format("20060102-150405")+".json")
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Printf("\nall measurements: %s\n", file)
	return r.render(dir)
}

// render writes the tables as Markdown and the chart.
func (r *results) render(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range []struct {
		name  string
		write func(io.Writer)
	}{{"table.md", r.markdown}, {"chart.svg", r.chart}} {
		var text bytes.Buffer
		f.write(&text)
		file := filepath.Join(dir, f.name)
		if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
			return err
		}
		fmt.Println("written:", file)
	}
	return nil
}

// readResults reads what keep wrote.
func readResults(file string) (*results, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &results{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// of returns the samples of one work on one file system in one condition.
func (r *results) of(work, when, driver string) (found []sample) {
	for _, s := range r.Samples {
		if s.Work == work && s.When == when && s.Driver == driver {
			found = append(found, s)
		}
	}
	return found
}

// median is the middle one of values, or the mean of the two in the middle.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// quantile is the value that a part of values are not above; 0 if there are none.
func quantile(values []float64, part float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(values))[min(int(part*float64(len(values))), len(values)-1)]
}

// average is the mean of values; 0 if there are none.
func average(values []float64) (mean float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	return mean
}

// medianOf is the median of what get tells of each sample.
func medianOf(samples []sample, get func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = get(s)
	}
	return median(values)
}

// memory is a line of /proc/meminfo, in bytes.
func memory(key string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", key), " kB"), 10, 64)
	return n << 10
}

// field is the value of the first line "key: value" in a file.
func field(file, key string) string {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	return strings.TrimSpace(string(b))
}
