package main

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestPackagesAgree holds nfpm's list of what is in a package against
// goreleaser's: nothing else would notice where one of them is forgotten.
func TestPackagesAgree(t *testing.T) {
	list := func(path string) []string {
		b, err := os.ReadFile(filepath.Join("../..", path))
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, line := range regexp.MustCompile(`(?m)^ *- \{.*dst: .*$`).FindAllString(string(b), -1) {
			line = strings.ReplaceAll(strings.TrimSpace(line), `'{{ envOrDefault "DATE" .CommitDate }}'`, `"${DATE}"`)
			if !strings.Contains(line, "${ROOT}") { // programs, which goreleaser adds by itself
				lines = append(lines, line)
			}
		}
		return lines
	}
	ours, theirs := list(packages), list("goreleaser.yaml")
	if len(ours) == 0 || !slices.Equal(ours, theirs) {
		t.Errorf("%s has\n%s\ngoreleaser.yaml has\n%s", packages, strings.Join(ours, "\n"), strings.Join(theirs, "\n"))
	}
}

// program builds a small program.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dist")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	return path
}

func TestStatic(t *testing.T) {
	if err := static(program(t)); err != nil {
		t.Error(err)
	}
	if err := static("/bin/sh"); err == nil {
		t.Error("a program that wants a loader passes")
	}
}

// TestSBOM lists a program that is known: this package.
func TestSBOM(t *testing.T) {
	dir := t.TempDir()
	tarball := filepath.Join(dir, "x_1.0_y.tar.gz")
	f, err := os.Create(tarball)
	if err != nil {
		t.Fatal(err)
	}
	packed := gzip.NewWriter(f)
	archive := tar.NewWriter(packed)
	b, err := os.ReadFile(program(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"x/README": "no program", "x/bin/dist": string(b)} {
		if err := archive.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	for _, close := range []func() error{archive.Close, packed.Close, f.Close} {
		if err := close(); err != nil {
			t.Fatal(err)
		}
	}
	list := filepath.Join(dir, "sbom.json")
	if err := writeSBOM(tarball, "1.0", list); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	var got bom
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Components) != 2 || got.Components[0].Name != "dist" || got.Components[1].Name != "std" {
		t.Errorf("components %+v", got.Components)
	}
	if len(got.Dependencies) != 2 || !slices.Equal(got.Dependencies[0].DependsOn, []string{"x/bin/dist"}) {
		t.Errorf("dependencies %+v", got.Dependencies)
	}
}
