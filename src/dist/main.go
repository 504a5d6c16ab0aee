package main

import (
	"crypto/sha256"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	var r release
	var date, to, sbom string
	flag.StringVar(&r.version, "version", "", "version, without a v")
	flag.StringVar(&r.commit, "commit", "unknown", "commit, as programs name it")
	flag.StringVar(&date, "date", "", "time of the commit, that of all files, as RFC 3339 has it")
	flag.StringVar(&sbom, "sbom", "", "tarball, to list what it was made of and nothing else")
	flag.StringVar(&to, "to", "dist", "directory, which is emptied, or the list")
	flag.Parse()
	var err error
	switch {
	case r.version == "" || flag.NArg() > 0:
		err = errors.New("usage: dist -version V (-date D [-commit C] | -sbom TARBALL) -to PATH")
	case sbom != "":
		err = writeSBOM(sbom, r.version, to)
	default:
		if r.date, err = time.Parse(time.RFC3339, date); err == nil {
			err = r.make(to)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

// release is what all files of a release have in common.
type release struct {
	version string
	commit  string
	date    time.Time
}

// arch is one that a release is made for.
type arch struct {
	people string // what people call it
	nfpm   string // what packagers call it
	env    []string
}

var arches = []arch{
	{"ubuntu64", "amd64", []string{"GOARCH=amd64"}},
	{"armv6", "arm6", []string{"GOARCH=arm", "GOARM=6"}},
	{"armv7", "arm7", []string{"GOARCH=arm", "GOARM=7"}},
	{"arm64", "arm64", []string{"GOARCH=arm64"}},
}

// programs are the packages of programs, and where each is on a machine.
var programs = []struct{ source, path string }{
	{"./src/cmd/aysfs", "usr/sbin/aysfs"},
	{"./src/cmd/ays_cache", "usr/sbin/ays_cache"},
	{"./src/cmd/ays", "usr/bin/ays"},
}

// make fills the directory to. It runs at the top of the source.
func (r release) make(to string) error {
	if err := os.RemoveAll(to); err != nil {
		return fmt.Errorf("empty %s: %w", to, err)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "aysfs-dist-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, a := range arches {
		root := filepath.Join(work, a.people)
		if err := r.build(a, root); err != nil {
			return err
		}
		name := filepath.Join(to, "aysfs_"+r.version+"_"+a.people)
		tarball := name + ".tar.gz"
		if err := r.writeTarball(tarball, root); err != nil {
			return fmt.Errorf("write %s: %w", tarball, err)
		}
		if err := writeSBOM(tarball, r.version, tarball+".sbom.json"); err != nil {
			return err
		}
		if err := r.pack(a, root, work, name); err != nil {
			return err
		}
	}
	return writeChecksums(to)
}

// build puts the programs below root, as they lie on a machine.
func (r release) build(a arch, root string) error {
	for _, p := range programs {
		to := filepath.Join(root, p.path)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
			"-ldflags", "-s -w -X main.version="+r.version+" -X main.commit="+r.commit, "-o", to, p.source)
		cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux"), a.env...)
		if msg, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s for %s: %w\n%s", p.source, a.people, err, msg)
		}
		if err := static(to); err != nil {
			return fmt.Errorf("%s for %s: %w", p.source, a.people, err)
		}
	}
	return nil
}

// static refuses a program that needs a loader or a library: images have none.
func static(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("read the program: %w", err)
	}
	defer f.Close()
	for _, part := range f.Progs {
		if part.Type == elf.PT_DYNAMIC || part.Type == elf.PT_INTERP {
			return fmt.Errorf("is not static: it has a %v", part.Type)
		}
	}
	return nil
}

// writeChecksums writes dir/checksums.txt, as sha256sum -c reads it.
func writeChecksums(dir string) error {
	files, err := os.ReadDir(dir) // sorted
	if err != nil {
		return err
	}
	var sums strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(b), f.Name())
	}
	return os.WriteFile(filepath.Join(dir, "checksums.txt"), []byte(sums.String()), 0o644)
}
